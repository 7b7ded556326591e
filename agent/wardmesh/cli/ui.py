# SPDX-License-Identifier: Apache-2.0
"""`wardmesh ui`: the process of its unit, or for as long as an operator looks."""

from __future__ import annotations

import argparse
import sys

from wardmesh.cli.local import EX_CONFIG
from wardmesh.cli.observe_service import own_name
from wardmesh.cli.output import paths_of
from wardmesh.daemon.log import setup_log
from wardmesh.daemon.notify import Notifier
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.client import Access
from wardmesh.observe.service import read_config
from wardmesh.observe.ui.service import Asked, run_ui


def ui(args: argparse.Namespace) -> int:
    """Serve the page until SIGTERM."""
    notifier = Notifier()
    paths = paths_of(args)
    try:
        config = read_config(paths)
        setup_log(config.log_format, config.log_level)
        asked = Asked(args.listen, _access(args))
        return run_ui(paths, asked, own_name(paths), lambda: notifier.send("READY=1"))
    except WardmeshError as error:
        print(f"wardmesh: {error}", file=sys.stderr)
        return EX_CONFIG


def _access(args: argparse.Namespace) -> Access | None:
    given = args.tls or args.tls_ca or args.tls_cert or args.tls_key or args.tls_server_name
    if not args.server:
        if given:
            raise WardmeshError(
                "--tls… speaks about a --server",
                remedy="name it; the relay of this host is asked as hubble.tls says",
            )
        return None
    tls = args.tls or bool(args.tls_ca or args.tls_cert or args.tls_key)
    return Access(args.server, tls, args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name)
