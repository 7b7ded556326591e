# SPDX-License-Identifier: Apache-2.0
"""Questions that people ask of a policy set: what would change, and whom does each selector select?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wardmesh.model.fleetmap import FleetMap, Workload
from wardmesh.model.identity import member_labels
from wardmesh.policy.documents import PolicySet
from wardmesh.policy.engine import Action, Direction, Engine
from wardmesh.policy.fleet import Endpoint
from wardmesh.policy.ports import ICMP, ICMP6, LAST_PORT, SCTP, TCP, UDP

NAMES = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMP6: "icmpv6"}
_MOST_NAMES = 50


def endpoints_of(fleet: FleetMap) -> list[Endpoint]:
    """The members of a map as policy sees them, and the pods of other clusters, one for each identity."""
    members = [
        Endpoint(
            member.name,
            (member.cluster or fleet.cluster).name,
            member_labels(member, fleet.cluster.name),
            member.addresses,
            member.ports,
            subnets=member.allowed_ips,
        )
        for member in fleet.members
    ]
    groups: dict[str, list[Workload]] = {}
    for workload in fleet.workloads:
        groups.setdefault(workload.group, []).append(workload)
    return members + [
        Endpoint(name, pods[0].cluster, pods[0].labels, tuple(pod.address for pod in pods), host=False)
        for name, pods in groups.items()
    ]


def compare(
    old: PolicySet, new: PolicySet, endpoints: Iterable[Endpoint], cluster: str, subject: str = ""
) -> list[dict[str, Any]]:
    """Pairs and ports that open or close: {change: opens|closes, from, to, ports}; the world is one peer.

    subject: only this member's own policy; "" is everybody's.
    """
    members = list(endpoints)
    before, after = Engine(old, members, cluster), Engine(new, members, cluster)
    rows: list[dict[str, Any]] = []
    for member in members:
        for ingress in (True, False) if subject in ("", member.name) else ():
            was, now = before.direction(member, ingress), after.direction(member, ingress)
            for peer in [*(m for m in members if m is not member), None]:
                rows += _changes(member, peer, ingress, (before, was), (after, now))
    return rows


def _changes(
    subject: Endpoint,
    peer: Endpoint | None,
    ingress: bool,
    old: tuple[Engine, Direction],
    new: tuple[Engine, Direction],
) -> list[dict[str, Any]]:
    places = []
    for engine, _direction in (old, new):
        whole = next(i for i, e in enumerate(engine.universe.entries) if not e.network.prefixlen)
        places.append(engine.universe.place_of(peer.addresses[0]) if peer else whole)
    found: dict[str, list[str]] = {"opens": [], "closes": []}
    for protocol, name in NAMES.items():
        for first, last in _stretches((old[1], new[1]), protocol):
            was = _open(old[1], places[0], protocol, first)
            now = _open(new[1], places[1], protocol, first)
            if was != now:
                ports = "all" if (first, last) == (0, _last(protocol)) else f"{first}-{last}"
                text = str(first) if first == last else ports
                found["opens" if now else "closes"].append(f"{text}/{name}")
    other = peer.name if peer else "world"
    ends = (other, subject.name) if ingress else (subject.name, other)
    return [
        {"change": change, "from": ends[0], "to": ends[1], "ports": " ".join(ports)}
        for change, ports in found.items()
        if ports
    ]


def _last(protocol: int) -> int:
    return 255 if protocol in (ICMP, ICMP6) else LAST_PORT


def _stretches(directions: Iterable[Direction], protocol: int) -> list[tuple[int, int]]:
    """Ports between which no rule of either set makes a difference."""
    ranges = [
        r
        for direction in directions
        for grant in direction.grants
        for r in grant.ranges or ()
        if r.protocol == protocol
    ]
    edges = sorted({0, _last(protocol) + 1, *(r.first for r in ranges), *(r.last + 1 for r in ranges)})
    return [(edges[i], edges[i + 1] - 1) for i in range(len(edges) - 1)]


def _open(direction: Direction, place: int, protocol: int, port: int) -> bool:
    return direction.decide(place, protocol, port)[0] in (Action.ALLOW, Action.AUDIT)


def selector_rows(engine: Engine) -> tuple[list[dict[str, Any]], list[str]]:
    """Each selector with the names that it selects; warnings about those that select nobody or strangers."""
    rows: list[dict[str, Any]] = []
    warnings: list[str] = []
    for policy in engine.policies.policies:
        for rule in policy.rules:
            where = f"{policy.source}: {policy.name}"
            chosen = [endpoint.name for endpoint in engine.subjects(rule)]
            rows.append(_row(f"{where} subject", str(rule.subject), chosen))
            if not chosen:
                warnings.append(f"{where}: the rule selects nobody: {rule.subject}")
            for item in (*rule.ingress, *rule.egress):
                for selector in item.peers.endpoints:
                    names = _names(engine, engine.universe.selected(selector))
                    rows.append(_row(f"{where} {item.path}", str(selector), names))
                    if not names:
                        warnings.append(f"{where} {item.path}: selects nobody: {selector}")
                for selector in item.peers.nodes:
                    found = engine.universe.matching(selector)
                    rows.append(_row(f"{where} {item.path}", f"nodes {selector}", _names(engine, found)))
                    if found & ~engine.universe.managed:
                        warnings.append(
                            f"{where} {item.path}: fromNodes/toNodes {selector} selects strangers, too; "
                            "add reserved:remote-node, or use the entity remote-node"
                        )
    return rows, warnings


def _row(where: str, selector: str, names: list[str]) -> dict[str, Any]:
    return {"where": where, "selector": selector, "selects": names[:_MOST_NAMES], "count": len(names)}


def _names(engine: Engine, members: int) -> list[str]:
    entries = [entry for place, entry in enumerate(engine.universe.entries) if members >> place & 1]
    return list(dict.fromkeys(entry.member.name if entry.member else str(entry.network) for entry in entries))
