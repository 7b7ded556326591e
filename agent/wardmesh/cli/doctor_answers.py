# SPDX-License-Identifier: Apache-2.0
"""What agent, checks, kernel and systemd answered, as the doctor's facts. Nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardmesh.datapath.contract import DIRECTIONS, EGRESS, INGRESS
from wardmesh.datapath.tc import FIREWALL_PREFIX, PREFIX, Filter
from wardmesh.health import facts as f

_LISTEN = "0A"  # TCP_LISTEN, net/tcp_states.h
LOSS_WARNING = 0.05  # share of lost probes; a sound network loses next to none


def checks_of(document: Mapping[str, Any], *, encryption: bool = True) -> f.Checks:
    """What wardmesh-health said, as facts; encryption: members are to be reached by the tunnel."""
    rows = document.get("peers", [])
    states = [str(row["state"]) for row in rows]
    doubtful = []
    for row in rows:
        if row["state"] != "reachable":
            continue
        if encryption and row["path"] != "tunnel":
            doubtful.append((str(row["name"]), f"path {row['path']}"))
        elif (row["loss"] or 0) > LOSS_WARNING:
            doubtful.append((str(row["name"]), f"{row['loss']:.0%} lost"))
    return f.Checks(
        states.count("reachable"),
        states.count("unknown"),
        tuple(str(row["name"]) for row in rows if row["state"] == "unreachable"),
        tuple(doubtful),
        tuple(map(str, document["problems"])),
    )


def agent_of(document: Mapping[str, Any]) -> f.Agent:
    """/v1/status as the doctor's facts; KeyError and TypeError where it is something else."""
    wall = document["firewall"]
    return f.Agent(
        version=str(document["version"]),
        mode=str(document["mode"]),
        wish=str(document["wish"]),
        encryption=bool(document["encryption"]),
        backend=str(document["backend"]),
        listen_port=int(document["listenPort"]),
        generation=int(document["generation"]),
        fleet_digest=str(document["digests"]["fleet"]),
        firewall=bool(wall["enabled"]),
        audit=bool(wall["audit"]),
        policies=len(wall["policies"]),
        devices=tuple(document["guard"]["devices"]),
        peers=tuple(
            f.Peer(
                str(row["name"]),
                str(row["tunnel"]),
                str(row["endpoint"]),
                bool(row["sealed"]),
                float(row["lastHandshake"]),
            )
            for row in document["peers"]
        ),
        problems=tuple(map(str, document["problems"])),
        warnings=tuple(map(str, document["warnings"])),
        now=float(document["time"]),
    )


def attached_of(device: str, by_way: Mapping[int, list[Filter]]) -> f.Attached:
    """What runs on a device; others' filters count while they stand before the first one of ours."""
    before = []
    for way, filters in by_way.items():
        first = next((place for place, entry in enumerate(filters) if entry.ours), None)
        others = dict.fromkeys((entry.kind, entry.prio) for entry in filters[: first or 0])
        before += [f"{kind} at priority {prio} ({DIRECTIONS[way]})" for kind, prio in others]

    names = {way: [entry.name for entry in filters if entry.ours] for way, filters in by_way.items()}

    def has(prefix: str) -> tuple[bool, bool]:
        came, went = (any(name.startswith(prefix) for name in names[way]) for way in (INGRESS, EGRESS))
        return came, went

    return f.Attached(device, has(PREFIX), has(FIREWALL_PREFIX), tuple(before))


def listening_ports(text: str, *, listening: bool) -> set[int]:
    """Local ports of /proc/net/udp or tcp; listening: only sockets in that state."""
    found = set()
    for line in text.splitlines()[1:]:
        words = line.split()
        if not listening or words[3] == _LISTEN:
            found.add(int(words[1].rpartition(":")[2], 16))
    return found


def units_of(text: str) -> tuple[f.Unit, ...]:
    """`systemctl show` of several units; those that are not installed are left out."""
    found = []
    for block in text.strip().split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        if values.get("LoadState") == "loaded":
            found.append(f.Unit(values["Id"], values["ActiveState"], values.get("UnitFileState", "")))
    return tuple(found)
