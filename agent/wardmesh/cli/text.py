# SPDX-License-Identifier: Apache-2.0
"""Documents of the API in words, in the forms of the seed documents (§5.2 status, §6.3 encryption status)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wardmesh.cli import health_text

_BANNER = r"""    /¯¯\
 /¯¯\__/¯¯\    Wardmesh:       {agent}
 \__/¯¯\__/    Operator:       disabled
 /¯¯\__/¯¯\    Hubble:         {hubble}
 \__/¯¯\__/    ClusterMesh:    {clusters}
    \__/"""

# Reasons of upstream's numbers from 130 on (pkg/monitor/api), those that the firewall counts.
DROP_REASONS = (
    "Policy denied",
    "Policy denied by denylist",
    "Invalid packet",
    "CT: Map insertion failed",
    "Fragmented packet",
    "Forbidden ICMPv6 message",
)

Document = Mapping[str, Any]


def ago(then: float, now: float) -> str:
    """Unix seconds to the short form of the seeds: 30s ago, 1m ago, never."""
    if not then:
        return "never"
    seconds = max(0, int(now - then))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def status(data: Document, *, health: bool, verbose: bool, hubble: str = "disabled") -> str:
    """The banner, the nodes, then what the seeds do not show. hubble: a word about the observer."""
    word = "Degraded" if data["problems"] else "OK"
    lines = [
        _BANNER.format(agent=word, hubble=hubble, clusters=clusters(data.get("clustermesh", []))),
        f"Daemon:         {word}",
        "Nodes:",
        *_nodes(data, health=health),
        *health_text.cluster(data.get("health"), verbose=health),
    ]
    lines.append(f"Encryption:     {_encryption(data)}")
    lines += [f"Rotation:       {word}" for word in _rotation(data)]
    lines += [f"Fleet map:      {_fleet_map(data)}"]
    if "discovery" in data:
        lines.append(f"Discovery:      {_discovery(data['discovery'])}")
    lines.append(f"Guard:          {', '.join(data['guard']['devices']) or 'no device'}")
    lines.append(f"Host firewall:  {_firewall(data)}")
    if data.get("closed"):
        lines.append("Closed:         to all but failsafe ports, DHCP and the tunnel, since the boot")
    if verbose:
        lines += [
            f"  {name}: {counter['packets']} packets, {counter['bytes']} bytes"
            for name, counter in data["guard"]["counters"].items()
        ]
        lines += [f"Version:        {data['version']}", f"Public key:     {data['publicKey'] or 'none'}"]
    lines += [f"Inactive:       {key}: not active in this version" for key in data["inactive"]]
    lines += [f"Warning:        {warning}" for warning in data["warnings"]]
    lines += [f"Problem:        {problem}" for problem in data["problems"]]
    return "\n".join(lines)


def clusters(rows: Sequence[Document]) -> str:
    """How many of the other clusters are ready, in upstream's words."""
    ready = sum(row["ready"] for row in rows)
    return f"{ready}/{len(rows)} remote clusters ready" if rows else "disabled"


def clustermesh(rows: Sequence[Document], now: float) -> str:
    """A line for each cluster, and below it what there is to say about it."""
    lines = [f"ClusterMesh:  {clusters(rows)}"]
    for row in rows:
        counts = [f"{row[name]} {name}" for name in ("nodes", "identities", "addresses")]
        counts[0] += f" ({row['reachable']} reachable)"
        number = f" (id {row['id']})" if row["id"] else ""
        change = f", last change {ago(row['lastChange'], now)}" if row["source"] == "store" else ""
        word = "ready" if row["ready"] else "not ready"
        lines.append(f"  {row['name']}{number}: {word}, {', '.join(counts)}{change}")
        if row["source"] == "store":
            state = (
                f"connected to {row['server']}" if row["connected"] else "no connection, the last state stays"
            )
            lines.append(f"    store: {state}")
        lines += [f"    problem: {problem}" for problem in row["problems"]]
    return "\n".join(lines)


def _discovery(store: Mapping[str, Any]) -> str:
    word = f"connected to {store['server']}" if store["connected"] else "no connection, the last members stay"
    counts = [f"{store.get('records', 0)} records"]
    counts += [f"{store[name]} {name}" for name in ("skipped", "refused") if store.get(name)]
    return f"{word}; {', '.join(counts)}{'' if store['registered'] else '; not registered'}"


def _nodes(data: Document, *, health: bool) -> list[str]:
    known = health_text.by_name(data.get("health"))
    rows = [
        (peer["name"], _node(peer, data["time"], known.get(peer["name"]), health=health))
        for peer in data["peers"]
    ]
    if data["self"]:
        note = " [this host]" if health else ""
        rows.append((data["self"], f"  {data['address']} ({data['self']}): Reachable{note}"))
    return [line for _name, line in sorted(rows)]


def _node(peer: Document, now: float, checked: Document | None, *, health: bool) -> str:
    """checked: what wardmesh-health says; it knows sooner than a tunnel that somebody is gone."""
    good = peer["reachable"] and (checked is None or checked["state"] != "unreachable")
    line = f"  {peer['address']} ({peer['name']}): {'Reachable' if good else 'Unreachable'}"
    if not health:
        return line
    sealed = "sealed" if peer["sealed"] else "not sealed"
    return (
        f"{line} [tunnel {peer['tunnel']}, {sealed}, endpoint {peer['endpoint']}, "
        f"handshake {ago(peer['lastHandshake'], now)}, "
        f"received {peer['rxBytes']}, sent {peer['txBytes']} bytes]" + health_text.lines(checked)
    )


def _encryption(data: Document) -> str:
    if not data["encryption"]:
        return "Disabled"
    device = f"{data['interface']}, {data['backend'] or 'no backend'}, UDP {data['listenPort']}"
    return f"WireGuard [{device}], mode {_mode(data)}"


def _rotation(data: Document) -> list[str]:
    """Nothing while no keys rotate."""
    found = data.get("rotation") or {"phase": "none"}
    if found["phase"] == "none":
        return []
    used = f"{len(found['sending'])} of {len(found['pairs'])} members by {found['interface']}"
    waiting = f", not up: {', '.join(found['waiting'][:10])}" if found["waiting"] else ""
    return [f"{found['phase']}, {used} (UDP {found['listenPort']}){waiting}"]


def _firewall(data: Document) -> str:
    wall = data["firewall"]
    if not wall["enabled"]:
        return "Disabled"
    word = "Audit" if wall["audit"] else "Enabled"
    dropped = {
        name.rpartition(" ")[0]: 0 for name in wall["counters"] if name.rpartition(" ")[0] in DROP_REASONS
    }
    for name, count in wall["counters"].items():
        reason = name.rpartition(" ")[0]
        if reason in dropped:
            dropped[reason] += count["packets"]
    said = "".join(f", {reason}: {count}" for reason, count in dropped.items())
    return f"{word}, {len(wall['policies'])} policies, revision {data['revision']}{said}"


def _mode(data: Document) -> str:
    if data["mode"] == "prefer":
        return "prefer" + (" (strict is wished, not yet turned on)" if data["wish"] == "strict" else "")
    sealed = sum(peer["sealed"] for peer in data["peers"])
    return f"strict, {sealed} of {len(data['peers'])} members sealed"


def _fleet_map(data: Document) -> str:
    if not data["generation"]:
        return "none"
    return f"cluster {data['cluster']}, generation {data['generation']}"


def encryption(data: Document, now: float) -> str:
    """The form of seed §6.3; now in unix seconds."""
    enabled = bool(data["encryption"])
    lines = [
        f"Encryption:      {'WireGuard' if enabled else 'Disabled'}",
        f"Node Encryption: {'Enabled' if enabled else 'Disabled'}",
        "Peers:",
    ]
    for peer in data["peers"]:
        word = "Connected" if peer["reachable"] else "Disconnected"
        shake = ago(peer["lastHandshake"], now)
        lines.append(f"  {peer['address']} ({peer['name']}): {word}, Last Handshake: {shake}")
    if enabled:
        lines.append(f"Mode:            {_mode(data)}")
    lines += [f"Rotation:        {word}" for word in _rotation(data)]
    lines += [f"Problem:         {problem}" for problem in data["problems"]]
    return "\n".join(lines)
