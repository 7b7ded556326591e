# SPDX-License-Identifier: Apache-2.0
"""One function per verb: arguments in, exit status out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wardmesh import __version__
from wardmesh.api import client
from wardmesh.cli import text
from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

Verb = Callable[[argparse.Namespace], int]


def _paths(args: argparse.Namespace) -> Paths:
    return Paths(args.root)


def _emit(args: argparse.Namespace, data: Mapping[str, Any], words: str) -> int:
    print(json.dumps(data) if args.output == "json" else words)
    return 0


def daemon(args: argparse.Namespace) -> int:
    """Run the agent."""
    from wardmesh.daemon.main import run

    return run(_paths(args))


def boot(args: argparse.Namespace) -> int:
    """Guard every device from the last good state; the daemon takes over later."""
    from wardmesh.daemon.boot import guard_from_last_good

    for line in guard_from_last_good(_paths(args)):
        print(line, file=sys.stderr)
    return 0


def _missing(data: Mapping[str, Any]) -> list[str]:
    return [peer["name"] for peer in data["peers"] if not peer["reachable"]]


def status(args: argparse.Namespace) -> int:
    """Status; with --wait until every tunnel is up, else exit status 1 that names who is missing."""
    path = _paths(args).socket
    deadline = time.monotonic() + (args.wait or 0)
    told: list[str] = []
    while True:
        try:
            data = client.call(path, "GET", "/v1/status")
        except WardmeshError:
            if time.monotonic() >= deadline:
                raise
            data = None
        missing = _missing(data) if data else ["the agent"]
        if args.wait is None or not missing or time.monotonic() >= deadline:
            break
        if missing != told:
            print(f"waiting for {', '.join(missing)}", file=sys.stderr)
            told = missing
        time.sleep(0.2)
    if data is None:
        return 1
    print(json.dumps(data) if args.output == "json" else text.status(data, verbose=args.verbose))
    if args.wait is not None and missing:
        print(
            f"wardmesh: tunnels not up: {', '.join(missing)} (remedy: check that UDP 51871 passes "
            "between the hosts and that their agents run)",
            file=sys.stderr,
        )
        return 1
    return 1 if data["problems"] and args.wait is not None else 0


def version(args: argparse.Namespace) -> int:
    """Version."""
    return _emit(args, {"version": __version__}, f"wardmesh {__version__}")


def cleanup(args: argparse.Namespace) -> int:
    """Remove every kernel object of ours."""
    from wardmesh.daemon.boot import remove_everything

    removed = remove_everything(_paths(args), dry_run=args.dry_run)
    return _emit(
        args, {"changed": bool(removed), "removed": removed}, "\n".join(removed) or "nothing to remove"
    )


def encryption_status(args: argparse.Namespace) -> int:
    """Encryption by peer."""
    data = client.call(_paths(args).socket, "GET", "/v1/status")
    return _emit(
        args,
        {key: data[key] for key in ("mode", "wish", "backend", "encryption", "peers")},
        text.encryption(data),
    )


def encryption_key(args: argparse.Namespace) -> int:
    """The public key."""
    from wardmesh.wireguard.keys import load_or_create

    known = load_or_create(_paths(args).key, dry_run=True)
    if known.public_key is None:
        raise WardmeshError(
            "no key on this host", where=str(_paths(args).key), remedy="run: wardmesh node init"
        )
    return _emit(args, {"publicKey": known.public_key, "generation": known.generation}, known.public_key)


def encryption_mode(args: argparse.Namespace) -> int:
    """Show or set the mode."""
    path = _paths(args).socket
    if args.mode is None:
        data = client.call(path, "GET", "/v1/status")
        return _emit(args, {"mode": data["mode"], "wish": data["wish"]}, data["mode"])
    answer = client.call(
        path, "GET" if args.dry_run else "POST", f"/v1/mode/{args.mode}{'/all' if args.all else ''}"
    )
    words = f"mode {answer['mode']}, sealed: {', '.join(answer['sealed']) or 'nobody'}"
    if answer["unverified"]:
        words += f"\nnot verified: {', '.join(answer['unverified'])}"
    return _emit(args, answer, words)


def config_validate(args: argparse.Namespace) -> int:
    """Check a file; says which keys are not active."""
    from wardmesh.model.config import parse_config

    path = args.file or _paths(args).config
    data = read_bytes(path)
    if data is None:
        raise WardmeshError("no such file", where=str(path), remedy="name the file to check")
    config = parse_config(data.decode(errors="replace"), str(path))
    for key in config.inactive:
        print(f"{path}: {key}: not active in this version", file=sys.stderr)
    print(f"{path}: valid")
    return 0


def config_get(args: argparse.Namespace) -> int:
    """Values in force."""
    from wardmesh.model.config import parse_config

    path = _paths(args).config
    values = dict(parse_config((read_bytes(path) or b"").decode(errors="replace"), str(path)).values)
    if args.key:
        values = {
            key: value for key, value in values.items() if key == args.key or key.startswith(args.key + ".")
        }
        if not values:
            raise WardmeshError("unknown key", where=args.key, remedy="wardmesh config get shows all of them")
    plain = json.loads(json.dumps(values, default=lambda item: item.__dict__))
    return _emit(args, plain, "\n".join(f"{key} = {json.dumps(value)}" for key, value in plain.items()))


def node_init(args: argparse.Namespace) -> int:
    """Key birth and the public facts of this host."""
    from pyroute2 import IPRoute

    from wardmesh.wireguard.devices import node_addresses
    from wardmesh.wireguard.keys import load_or_create

    known = load_or_create(_paths(args).key, dry_run=args.dry_run)
    with IPRoute() as ipr:
        addresses = node_addresses(ipr, args.hint)
    data = {
        "changed": known.created,
        "public_key": known.public_key,
        "key_generation": known.generation,
        "addresses": addresses,
    }
    return _emit(args, data, f"{known.public_key} {' '.join(addresses)}")


def _load_map(path: Path) -> Any:
    from wardmesh.model.fleetmap import parse_fleet_map

    data = read_bytes(path)
    return None if data is None else parse_fleet_map(data, str(path))


def fleet_apply(args: argparse.Namespace) -> int:
    """Check, install, apply; whatever fails, the old map stays."""
    from wardmesh.model.fleetmap import check_succession, diff_maps

    paths = _paths(args)
    new_bytes = read_bytes(args.file)
    new = _load_map(args.file)
    if new is None or new_bytes is None:
        raise WardmeshError("no such file", where=str(args.file), remedy="name a fleet map")
    old_bytes = read_bytes(paths.fleet)
    current = _load_map(paths.fleet)
    check_succession(current, new, str(args.file))
    difference = diff_maps(current, new)
    changed = old_bytes != new_bytes
    if changed and not args.dry_run:
        write_atomic(paths.fleet, new_bytes, 0o644)
        if client.running(paths.socket):
            try:
                client.call(paths.socket, "POST", "/v1/reload", timeout=120)
            except WardmeshError:
                if old_bytes is None:
                    paths.fleet.unlink()
                else:
                    write_atomic(paths.fleet, old_bytes, 0o644)
                raise
    data = {
        "changed": changed,
        "generation": new.generation,
        "peers_added": difference.added,
        "peers_removed": difference.removed,
        "peers_updated": difference.changed,
        "diff": {"before": text.members(current), "after": text.members(new)},
    }
    counts = f"+{len(difference.added)} -{len(difference.removed)} ~{len(difference.changed)}"
    words = f"generation {new.generation}: {counts}"
    return _emit(args, data, words if changed else "unchanged")


def fleet_show(args: argparse.Namespace) -> int:
    """The map in force."""
    current = _load_map(_paths(args).fleet)
    if current is None:
        raise WardmeshError("no fleet map", where=str(_paths(args).fleet), remedy="run the playbook")
    return _emit(
        args,
        {"generation": current.generation, "members": [member.name for member in current.members]},
        text.members(current),
    )
