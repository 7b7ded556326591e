# SPDX-License-Identifier: Apache-2.0
"""`wardmesh observer` and `wardmesh relay`: the processes of their units."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable

from wardmesh.cli.local import EX_CONFIG
from wardmesh.cli.output import paths_of
from wardmesh.daemon.log import setup_log
from wardmesh.daemon.notify import Notifier
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.observe.flow import FlowSource
from wardmesh.observe.replay import Replay
from wardmesh.observe.service import Observer, read_config
from wardmesh.observe.settings import Settings, read_settings
from wardmesh.wireguard.keys import load_or_create

LOG = logging.getLogger("wardmesh")


def open_source(paths: Paths) -> FlowSource:
    """The kernel's events. The one place that knows where they come from."""
    raise WardmeshError(
        "the kernel tells nothing of flows",
        where=str(paths.bpffs),
        why="the agent has pinned no map of events",
        remedy="turn hostFirewall.enabled on, and see that wardmesh.service runs",
    )


def observer(args: argparse.Namespace) -> int:
    """Serve this host's flows until SIGTERM."""
    notifier = Notifier()
    paths = paths_of(args)
    try:
        settings = _log(paths)
        if not settings.enabled and not args.replay:
            raise WardmeshError(
                "observing is turned off", where=f"{paths.config}: hubble.enabled", remedy="set it to true"
            )
        source = Replay(args.replay) if args.replay else open_source(paths)
        running = Observer(paths, source, own_name(paths))
    except WardmeshError as error:
        print(f"wardmesh: {error}", file=sys.stderr)
        return EX_CONFIG
    _catch(running.stop)
    signal.signal(signal.SIGHUP, lambda *_args: running.forget())
    notifier.send("READY=1")
    try:
        running.run()
        notifier.send("STOPPING=1")
    finally:
        running.close()
    return 0


def relay(args: argparse.Namespace) -> int:
    """Serve the fleet's flows until SIGTERM."""
    from wardmesh.observe.relay_service import run_relay

    notifier = Notifier()
    paths = paths_of(args)
    try:
        _log(paths)
        return run_relay(paths, args.listen, args.peers, own_name(paths), lambda: notifier.send("READY=1"))
    except WardmeshError as error:
        print(f"wardmesh: {error}", file=sys.stderr)
        return EX_CONFIG


def _log(paths: Paths) -> Settings:
    config = read_config(paths)
    setup_log(config.log_format, config.log_level)
    return read_settings(config)


def _catch(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_args: stop())


def own_name(paths: Paths) -> Callable[[FleetMap], str]:
    """Which member of a map this host is: the one with its public key."""

    def find(fleet: FleetMap) -> str:
        known = load_or_create(paths, dry_run=True)
        member = fleet.by_key(known.public_key) if known.public_key else None
        return member.name if member else ""

    return find
