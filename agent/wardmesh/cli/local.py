# SPDX-License-Identifier: Apache-2.0
"""Verbs that work on this host without asking the agent: daemon, boot, cleanup, config, node."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardmesh.cli.labels import by_hand
from wardmesh.cli.output import emit, paths_of
from wardmesh.discovery.clusters import read_clusters
from wardmesh.discovery.settings import read_settings
from wardmesh.host.files import read_bytes
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError

EX_CONFIG = 78  # sysexits.h; the unit does not start the agent again after this one


def daemon(args: argparse.Namespace) -> int:
    """Run the agent until it is told to stop."""
    from wardmesh.daemon.main import run

    try:
        return run(paths_of(args))
    except WardmeshError as error:
        print(f"wardmesh: {error}", file=sys.stderr)
        return EX_CONFIG


def boot(args: argparse.Namespace) -> int:
    """Guard every device from the last good state."""
    from wardmesh.daemon.boot import guard_from_last_good

    guard_from_last_good(paths_of(args), lambda line: print(line, file=sys.stderr, flush=True))
    return 0


def cleanup(args: argparse.Namespace) -> int:
    """Remove what lies in the kernel."""
    from wardmesh.daemon import cleanup as kernel

    removed = kernel.cleanup(paths_of(args), dry_run=args.dry_run)
    words = "\n".join(removed) or "nothing of wardmesh is in the kernel"
    return emit(args, {"changed": bool(removed), "removed": removed}, words)


def read_config(path: Path, *, needed: bool) -> Config:
    """The configuration; where no file is there and none is needed, the defaults."""
    data = read_bytes(path)
    if data is None and needed:
        raise WardmeshError("no such file", where=str(path), remedy="name the file to check")
    try:
        return parse_config((data or b"").decode(), str(path))
    except UnicodeDecodeError as error:
        raise WardmeshError(
            "not UTF-8", where=str(path), why=str(error), remedy="save it as UTF-8"
        ) from error


def config_validate(args: argparse.Namespace) -> int:
    """Check a file as the agent would."""
    path = args.file or paths_of(args).config
    config = read_config(path, needed=True)
    read_settings(config.values)
    read_clusters(config)
    words = [f"{path}: {key}: not active in this version" for key in config.inactive]
    document = {"valid": True, "file": str(path), "inactive": list(config.inactive)}
    return emit(args, document, "\n".join([*words, f"{path}: valid"]))


def config_get(args: argparse.Namespace) -> int:
    """Print values of the file, defaults included."""
    values = _plain(read_config(paths_of(args).config, needed=False).values)
    if not args.key:
        return emit(args, values, "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    if args.key in values:
        value = values[args.key]
        return emit(args, {args.key: value}, value if isinstance(value, str) else json.dumps(value))
    below = {key: value for key, value in values.items() if key.startswith(f"{args.key}.")}
    if not below:
        raise WardmeshError("unknown key", where=args.key, remedy="wardmesh config get prints all of them")
    return emit(args, below, "\n".join(f"{key} = {json.dumps(value)}" for key, value in below.items()))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them."""
    return dict(json.loads(json.dumps(dict(values), default=lambda item: dict(vars(item)))))


def node_init(args: argparse.Namespace) -> int:
    """Make the key where there is none; print this host's public facts."""
    from wardmesh.host.netlink import Netlink
    from wardmesh.wireguard.devices import node_addresses
    from wardmesh.wireguard.keys import load_or_create, staged_key

    known = load_or_create(paths_of(args), dry_run=args.dry_run)
    with Netlink() as link:
        addresses = [str(address) for address in node_addresses(link, args.hint)]
    paths = paths_of(args)
    labels = {**read_config(paths.config, needed=False).labels, **by_hand(paths)}
    document = {
        "changed": known.created,
        "public_key": known.public_key,
        "key_generation": known.generation,
        "next_public_key": staged_key(paths_of(args)),
        "addresses": addresses,
        "labels": labels,
    }
    words = [f"public key: {known.public_key or 'none yet'}", f"addresses:  {', '.join(addresses) or 'none'}"]
    return emit(args, document, "\n".join(words))
