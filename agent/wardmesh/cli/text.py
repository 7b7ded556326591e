# SPDX-License-Identifier: Apache-2.0
"""Data to the words that the seed documents show (§5.2, §6.3)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from wardmesh.model.fleetmap import FleetMap

_BANNER = r"""    /¯¯\
 /¯¯\__/¯¯\    Wardmesh:       {agent}
 \__/¯¯\__/    Operator:       disabled
 /¯¯\__/¯¯\    Hubble:         disabled
 \__/¯¯\__/    ClusterMesh:    disabled
    \__/"""


def ago(then: float, now: float) -> str:
    """Seconds to the short form: 30s ago, 1m ago, never."""
    if not then:
        return "never"
    seconds = max(0, int(now - then))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def status(data: Mapping[str, Any], *, verbose: bool) -> str:
    """The banner, the nodes, and what is wrong."""
    healthy = "OK" if not data["problems"] else "DEGRADED"
    peers = len(data["peers"])
    lines = [
        _BANNER.format(agent=healthy),
        f"Daemon:         {healthy}",
        f"Encryption:     {_encryption(data)}",
        f"Fleet map:      cluster {data['cluster']}, generation {data['generation']}, {peers} peers",
        "Nodes:",
    ]
    if data["self"]:
        lines.append(f"  {data['address']} ({data['self']}): Reachable")
    for peer in data["peers"]:
        seal = "" if peer["sealed"] or data["mode"] == "prefer" else ", not sealed yet"
        lines.append(
            f"  {peer['address']} ({peer['name']}): "
            f"{'Reachable' if peer['reachable'] else 'Unreachable'}{seal}"
        )
    lines += [f"Note:           {key}: not active in this version" for key in data["inactive"]]
    lines += [f"Problem:        {problem}" for problem in data["problems"]]
    if verbose:
        lines.append(f"Guard:          {', '.join(data['guard']['devices'])}")
        for reason, counter in data["guard"]["counters"].items():
            lines.append(f"  {reason}: {counter['packets']} packets, {counter['bytes']} bytes")
    return "\n".join(lines)


def _encryption(data: Mapping[str, Any]) -> str:
    if not data["encryption"]:
        return "Disabled"
    return f"WireGuard [{data['backend']}, {data['interface']}, mode {data['mode']}]"


def encryption(data: Mapping[str, Any]) -> str:
    """Seed §6.3."""
    enabled = bool(data["encryption"])
    lines = [
        f"Encryption:      {'WireGuard' if enabled else 'Disabled'}",
        f"Node Encryption: {'Enabled' if enabled else 'Disabled'}",
        f"Mode:            {data['mode']}",
        "Peers:",
    ]
    for peer in data["peers"]:
        word = "Connected" if peer["reachable"] else "Disconnected"
        lines.append(
            f"  {peer['address']} ({peer['name']}): {word}, "
            f"Last Handshake: {ago(peer['lastHandshake'], time.time())}"
        )
    return "\n".join(lines)


def members(fleet: FleetMap | None) -> str:
    """A sorted, short view of a map, for diffs: keys are public, and cut short."""
    if fleet is None:
        return ""
    rows = [
        f"{member.name} {member.key[:8]}… {member.endpoint} {' '.join(map(str, member.networks()))}"
        for member in fleet.members
    ]
    return "\n".join([f"generation {fleet.generation}", *rows]) + "\n"
