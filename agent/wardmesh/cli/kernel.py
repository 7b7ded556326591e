# SPDX-License-Identifier: Apache-2.0
"""bpf ipcache, policy, ct, maps list: what lies in the kernel, whatever the agent believes."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.local import read_config
from wardmesh.cli.output import emit, paths_of, table
from wardmesh.cli.rule_names import rules_in_force
from wardmesh.datapath.guard_view import ipcache
from wardmesh.datapath.open_pinned import firewall_folder, open_firewall, open_guard
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.identity import RESERVED, identities


def _names(fleet: FleetMap | None) -> dict[int, str]:
    """The members' names by identity."""
    names: dict[int, list[str]] = {}
    for name, number in identities(fleet).items() if fleet else ():
        names.setdefault(number, []).append(name)
    return {number: ",".join(found) for number, found in names.items()}


def ipcache_list(args: argparse.Namespace) -> int:
    """Who an address is, as the guard in the kernel sees it."""
    paths = paths_of(args)
    fleet = fleet_in_force(paths)
    members = fleet.members if fleet else ()
    tunnels = {str(net): str(member.endpoint) for member in members for net in member.networks()}
    nodes = {member.name: str(member.endpoint) for member in members}
    for pod in fleet.workloads if fleet else ():
        tunnels[f"{pod.address}/{pod.address.max_prefixlen}"] = nodes.get(pod.node, "")
    with open_guard(paths, read_config(paths.config, needed=False)) as guard:
        held = ipcache(guard)
    lines, rows = [], []
    for net, (identity, flags) in sorted(held.items(), key=lambda item: str(item[0])):
        tunnel = tunnels.get(str(net), "")
        lines.append((str(net), str(identity), tunnel, ",".join(flags)))
        rows.append({"prefix": str(net), "identity": identity, "tunnelEndpoint": tunnel, "flags": flags})
    head = ("IP PREFIX/ADDRESS", "IDENTITY", "TUNNEL ENDPOINT", "FLAGS")
    return emit(args, {"ipcache": rows}, table(head, lines))


def policy_list(args: argparse.Namespace) -> int:
    """What the firewall in the kernel says, how many new flows each line decided, and the rules behind it."""
    paths = paths_of(args)
    with open_firewall(paths, read_config(paths.config, needed=False)) as wall:
        rows = [asdict(line) for line in wall.policy()]
    fleet = fleet_in_force(paths)
    names, rules = _names(fleet), rules_in_force(paths, fleet)
    for row in rows:
        row["rules"] = rules.of(row["peers"], row["direction"], row["ports"])
    lines = [
        (
            row["verdict"],
            row["direction"].capitalize(),
            ",".join(_peer(word, names) for word in row["peers"]),
            row["ports"],
            str(row["flows"]),
            ", ".join(row["rules"]),
        )
        for row in rows
    ]
    head = ("POLICY", "DIRECTION", "IDENTITY", "PORT/PROTO", "NEW FLOWS", "RULES")
    return emit(args, {"policy": rows}, table(head, lines))


def _peer(word: str, names: dict[int, str]) -> str:
    if not word.isdigit():
        return f"reserved:{word}"
    number = int(word)
    known = f"reserved:{RESERVED[number]}" if number in RESERVED else names.get(number, "cidr")
    return f"{number} ({known})"


def ct_list(args: argparse.Namespace) -> int:
    """Connections."""
    paths = paths_of(args)
    with open_firewall(paths, read_config(paths.config, needed=False)) as wall:
        rows = [asdict(line) for line in wall.flows()]
    lines = []
    for row in rows:
        came = row["direction"] == "ingress"
        ends = (row["remote"], row["local"]) if came else (row["local"], row["remote"])
        lines.append(
            f"{row['protocol']} {'IN' if came else 'OUT'} {ends[0]} -> {ends[1]} expires={row['expires']}s "
            f"packets={row['packets'][0]}/{row['packets'][1]} bytes={row['bytes'][0]}/{row['bytes'][1]} "
            f"identity={row['identity']} verdict={row['verdict']} flags={','.join(row['flags']) or 'new'}"
        )
    return emit(args, {"flows": rows}, "\n".join(lines) or "no connections")


def maps_list(args: argparse.Namespace) -> int:
    """Every map of wardmesh: entries that are there and that fit."""
    paths = paths_of(args)
    config = read_config(paths.config, needed=False)
    with open_guard(paths, config) as guard:
        found = [("guard", *row) for row in guard.sizes()]
    if firewall_folder(paths, config).is_dir():
        with open_firewall(paths, config) as wall:
            found += [("firewall", *row) for row in wall.sizes()]
    rows = [
        {"map": f"{part}/{name}", "entries": held, "maxEntries": room} for part, name, held, room in found
    ]
    lines = [(str(r["map"]), str(r["entries"]), str(r["maxEntries"])) for r in rows]
    return emit(args, {"maps": rows}, table(("NAME", "NUM ENTRIES", "MAX ENTRIES"), lines))
