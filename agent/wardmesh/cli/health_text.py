# SPDX-License-Identifier: Apache-2.0
"""What wardmesh-health knows, in words; the lines of a node have the form of cilium-health's status."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def milliseconds(seconds: float | None) -> str:
    """0.412ms; a dash where nothing is known."""
    return "-" if seconds is None else f"{seconds * 1000:.3f}ms"


def by_name(health: Document | None) -> dict[str, Document]:
    """The peers' rows."""
    return {row["name"]: row for row in (health or {}).get("peers", ())}


def cluster(health: Document | None, *, verbose: bool) -> list[str]:
    """Line of the whole; with verbose whose cycle it is. Nothing where checks are switched off."""
    if health is None:
        return []
    problems = [f"Health problem: {problem}" for problem in health["problems"]]
    if "counts" not in health:
        return ["Cluster health: not known", *problems]
    counts = health["counts"]
    total = sum(counts.values())
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(health["time"]))
    told = f"Cluster health: {counts['reachable']}/{total} reachable ({when}) "
    told += f"(Probe interval: {_span(health['interval'])}"
    if verbose:
        told += f", {health['partners']} peers in each, every peer once in {_span(health['cycle'])}"
    told += ")"
    return [told + (f", {counts['unknown']} not checked yet" if counts["unknown"] else ""), *problems]


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole != seconds or whole < 60:
        return f"{seconds:g}s"
    return f"{whole // 60}m{whole % 60}s" if whole % 60 else f"{whole // 60}m"


def lines(row: Document | None) -> str:
    """What is added to a node's line, with line breaks; nothing where the node is not checked."""
    if row is None:
        return ""
    way = row["path"] if row["path"] != "plain" else f"plain, by {row['device']}"
    ago = "never" if row["checkedAgo"] is None else f"{row['checkedAgo']:.0f}s ago"
    found = [f"    Health: {row['state']}, path {way}, checked {ago}"]
    for place, address in enumerate(row["addresses"]):
        kind = "Primary" if not place else "Secondary"
        found.append(f"    {kind} address {address['address']}:")
        found.append(f"      ICMP to stack:   {_protocol(address['icmp'])}")
        found.append(f"      HTTP to agent:   {_protocol(address['http'])}")
    return "\n" + "\n".join(found)


def _protocol(held: Document) -> str:
    if not held["sent"]:
        return "not checked yet"
    if held["error"]:
        why = f"denied by policy ({held['denied']})" if held["denied"] else held["error"]
        return f"{why}, loss {held['loss']:.0%} of {held['sent']}"
    return (
        f"OK, RTT={milliseconds(held['last'])}, mean {milliseconds(held['mean'])}, "
        f"jitter {milliseconds(held['jitter'])}, loss {held['loss']:.0%} of {held['sent']}"
    )
