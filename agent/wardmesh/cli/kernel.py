# SPDX-License-Identifier: Apache-2.0
"""bpf ipcache, policy, ct, maps list: what lies in the kernel, whatever the agent believes."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from wardmesh.cli.output import emit, paths_of, table
from wardmesh.cli.rule_names import RuleNames
from wardmesh.datapath import contract, fw_contract
from wardmesh.datapath.fw_view import PinnedFirewall
from wardmesh.datapath.guard_view import ipcache, map_sizes
from wardmesh.host.files import read_bytes
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config, parse_config
from wardmesh.model.fleetmap import FleetMap, parse_fleet_map
from wardmesh.model.identity import RESERVED, identities


def _config(paths: Paths) -> Config:
    return parse_config((read_bytes(paths.config) or b"").decode(), str(paths.config))


def _firewall_folder(paths: Paths, config: Config) -> Path:
    wall = config.firewall
    name = fw_contract.contract_hash(config.members_max, wall.rows_max, wall.flows_max)
    return paths.bpffs / "firewall" / f"maps-{name}"


def _firewall(paths: Paths, config: Config) -> PinnedFirewall:
    wall = config.firewall
    specs = fw_contract.map_specs(config.members_max, wall.rows_max, wall.flows_max)
    return PinnedFirewall(_firewall_folder(paths, config), specs, wall.rows_max)


def _guard_folder(paths: Paths, config: Config) -> Path:
    return paths.bpffs / f"maps-{contract.contract_hash(config.members_max)}"


def _fleet(paths: Paths) -> FleetMap | None:
    data = read_bytes(paths.fleet)
    return None if data is None else parse_fleet_map(data, str(paths.fleet))


def _endpoints(paths: Paths) -> tuple[dict[str, str], dict[int, str]]:
    """Tunnel endpoint by network, and the members' names by identity."""
    fleet = _fleet(paths)
    if fleet is None:
        return {}, {}
    tunnels = {str(net): str(member.endpoint) for member in fleet.members for net in member.networks()}
    names: dict[int, list[str]] = {}
    for name, number in identities(fleet).items():
        names.setdefault(number, []).append(name)
    return tunnels, {number: ",".join(found) for number, found in names.items()}


def ipcache_list(args: argparse.Namespace) -> int:
    """Who an address is, as the guard in the kernel sees it."""
    paths = paths_of(args)
    config = _config(paths)
    tunnels, _names = _endpoints(paths)
    held = ipcache(_guard_folder(paths, config), config.members_max)
    lines, rows = [], []
    for net, (identity, flags) in sorted(held.items(), key=lambda item: str(item[0])):
        tunnel = tunnels.get(str(net), "")
        lines.append((str(net), str(identity), tunnel, ",".join(flags)))
        rows.append({"prefix": str(net), "identity": identity, "tunnelEndpoint": tunnel, "flags": flags})
    head = ("IP PREFIX/ADDRESS", "IDENTITY", "TUNNEL ENDPOINT", "FLAGS")
    return emit(args, {"ipcache": rows}, table(head, lines))


def policy_list(args: argparse.Namespace) -> int:
    """What the firewall in the kernel says, how many new flows each line decided, and the rule behind it."""
    paths = paths_of(args)
    with _firewall(paths, _config(paths)) as wall:
        rows = [asdict(line) for line in wall.policy()]
    _tunnels, names = _endpoints(paths)
    rules = RuleNames(paths, _fleet(paths))
    for row in rows:
        row["rule"] = rules.of(row["peers"][0], row["direction"], row["ports"])
    lines = [
        (
            row["verdict"],
            row["direction"].capitalize(),
            ",".join(_peer(word, names) for word in row["peers"]),
            row["ports"],
            str(row["flows"]),
            row["rule"],
        )
        for row in rows
    ]
    head = ("POLICY", "DIRECTION", "IDENTITY", "PORT/PROTO", "NEW FLOWS", "RULE")
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
    with _firewall(paths, _config(paths)) as wall:
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
    config = _config(paths)
    found = [("guard", *row) for row in map_sizes(_guard_folder(paths, config), config.members_max)]
    if _firewall_folder(paths, config).is_dir():
        with _firewall(paths, config) as wall:
            found += [("firewall", *row) for row in wall.sizes()]
    rows = [
        {"map": f"{part}/{name}", "entries": held, "maxEntries": room} for part, name, held, room in found
    ]
    lines = [(str(r["map"]), str(r["entries"]), str(r["maxEntries"])) for r in rows]
    return emit(args, {"maps": rows}, table(("NAME", "NUM ENTRIES", "MAX ENTRIES"), lines))
