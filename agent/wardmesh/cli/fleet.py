# SPDX-License-Identifier: Apache-2.0
"""The verbs of the fleet map: apply and show."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from wardmesh.api import client
from wardmesh.cli.output import emit, paths_of
from wardmesh.cli.state import LIMIT
from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member, check_succession, diff_maps
from wardmesh.model.map_parser import parse_fleet_map


def members(fleet: FleetMap | None) -> str:
    """A sorted, short view of a map, for diffs; public keys are cut short."""
    if fleet is None:
        return ""
    rows = [
        f"{member.name} {_keys(member)} {member.endpoint} {' '.join(map(str, member.networks()))}"
        for member in fleet.members
    ]
    return "\n".join([f"generation {fleet.generation}", *rows]) + "\n"


def _keys(member: Member) -> str:
    following = f" then {member.next_key[:10]}…" if member.next_key else ""
    return f"{member.key[:10]}…{following}"


def _current(paths: Paths) -> FleetMap | None:
    """The installed map; one that is damaged counts as none, since the new one is to replace it."""
    try:
        return installed_fleet(paths)
    except WardmeshError:
        return None


def fleet_apply(args: argparse.Namespace) -> int:
    """Check, install and apply a map; whatever fails, the old one stays."""
    paths = paths_of(args)
    data = read_bytes(args.file)
    if data is None:
        raise WardmeshError("no such file", where=str(args.file), remedy="name a fleet map")
    new = parse_fleet_map(data, str(args.file))
    current = _current(paths)
    check_succession(current, new, str(args.file))
    _check_fit(paths, new, args.file)
    installed = read_bytes(paths.fleet)
    running = client.listens(paths.socket)
    changed = installed != data or (running and _in_force(paths) != hashlib.sha256(data).hexdigest())
    if changed and not args.dry_run:
        _install(paths, installed, data, running=running)
    difference = diff_maps(current, new)
    document = {
        "changed": changed,
        "generation": new.generation,
        "peers_added": list(difference.added),
        "peers_removed": list(difference.removed),
        "peers_updated": list(difference.changed),
        "diff": {"before": members(current), "after": members(new)},
    }
    counts = f"+{len(difference.added)} -{len(difference.removed)} ~{len(difference.changed)}"
    return emit(args, document, f"generation {new.generation}: {counts if changed else 'unchanged'}")


def _check_fit(paths: Paths, new: FleetMap, source: Path) -> None:
    """What the agent would refuse is refused here too, whether it runs or not."""
    from wardmesh.daemon.inputs import check_map
    from wardmesh.model.config import parse_config

    text = (read_bytes(paths.config) or b"").decode(errors="replace")
    check_map(paths, parse_config(text, str(paths.config)), new, str(source))


def _in_force(paths: Paths) -> str:
    return str(client.call(paths.socket, "GET", "/v1/status")["digests"]["fleet"])


def _install(paths: Paths, old: bytes | None, new: bytes, *, running: bool) -> None:
    write_atomic(paths.fleet, new, 0o644)
    if not running:
        return
    try:
        client.call(paths.socket, "POST", "/v1/reload", {}, timeout=LIMIT)
    except WardmeshError:
        if old is None:
            paths.fleet.unlink(missing_ok=True)
        else:
            write_atomic(paths.fleet, old, 0o644)
        raise


def installed_fleet(paths: Paths) -> FleetMap | None:
    """The map of this host; WardmeshError where it is damaged."""
    data = read_bytes(paths.fleet)
    return None if data is None else parse_fleet_map(data, str(paths.fleet))


def fleet_in_force(paths: Paths) -> FleetMap | None:
    """The map with the members of a store, where there is one; else the installed one."""
    source = paths.fleet_in_force
    data = read_bytes(source)
    return None if data is None else parse_fleet_map(data, str(source))


def fleet_show(args: argparse.Namespace) -> int:
    """Print the map in force."""
    paths = paths_of(args)
    fleet = fleet_in_force(paths)
    if fleet is None:
        raise WardmeshError("no fleet map on this host", where=str(paths.fleet), remedy="run the playbook")
    rows = [
        {
            "name": member.name,
            "key": member.key,
            **({"nextKey": member.next_key} if member.next_key else {}),
            "addresses": [str(address) for address in member.addresses],
            "endpoint": str(member.endpoint),
            "allowedIPs": [str(network) for network in member.allowed_ips],
        }
        for member in fleet.members
    ]
    document = {"generation": fleet.generation, "cluster": fleet.cluster.name, "members": rows}
    return emit(args, document, members(fleet).rstrip("\n"))
