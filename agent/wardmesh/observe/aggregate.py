# SPDX-License-Identifier: Apache-2.0
"""Flows added up: who talks to whom on what, who most, what is dropped and why.

A connection is counted by its verdict, its bytes by the record at its end. Its opener stands on the left,
whichever way the packet went that was seen. Strangers are one, the world, where the question is about the
fleet's shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from wardmesh.observe.flow import ICMP, ICMP6, SCTP, TCP, UDP, Direction, Flow, Kind, Party, Verdict
from wardmesh.observe.reasons import drop_reason

WORLD = "world"
PROTOCOLS = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMP6: "icmpv6"}
MOST_KEYS = 100_000  # pairs and ports that are told apart; beyond them everything is "other"
_OTHER = "other"
_DENIED = (Verdict.DROPPED, Verdict.ERROR)


@dataclass
class Sum:
    """Flows of one key. plain: how many of them were seen outside the tunnel."""

    forwarded: int = 0
    dropped: int = 0
    audited: int = 0
    plain: int = 0
    seen: int = 0
    packets: int = 0
    bytes: int = 0

    def add(self, flow: Flow) -> None:
        """One flow of any kind."""
        event = flow.event
        if event.kind is not Kind.TRACE:
            self.audited += event.verdict is Verdict.AUDIT
            self.dropped += event.verdict in _DENIED
            self.forwarded += event.verdict not in (*_DENIED, Verdict.AUDIT)
        self.seen += 1
        self.plain += not event.encrypted
        if event.traffic is not None:
            self.packets += event.traffic.packets + event.traffic.packets_back
            self.bytes += event.traffic.bytes + event.traffic.bytes_back

    @property
    def connections(self) -> int:
        """Whatever became of them."""
        return self.forwarded + self.dropped + self.audited

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "connections": self.connections,
            "forwarded": self.forwarded,
            "dropped": self.dropped,
            "audited": self.audited,
            "encrypted": self.seen > 0 and not self.plain,
            "packets": self.packets,
            "bytes": self.bytes,
        }


def oriented(flow: Flow) -> tuple[Party, Party, int]:
    """Opener, answerer, and the port or ICMP type that was asked for."""
    event = flow.event
    if event.protocol in (ICMP, ICMP6):
        return flow.source, flow.destination, event.icmp_type
    if event.is_reply:
        return flow.destination, flow.source, event.source_port
    return flow.source, flow.destination, event.destination_port


def name_of(party: Party) -> str:
    """The member, or the world."""
    return party.name or WORLD


def _exact_name(party: Party, flow: Flow) -> str:
    if party.name:
        return party.name
    return str(flow.event.source if party is flow.source else flow.event.destination)


def port_text(protocol: int, port: int) -> str:
    """5432/tcp, 8/icmp, 47/ip for what has no ports."""
    known = PROTOCOLS.get(protocol)
    return f"{port}/{known}" if known else f"{protocol}/ip"


# --- the service map ---


def pairs(flows: Iterable[Flow]) -> dict[tuple[str, str, str], Sum]:
    """Sums by opener, answerer and port, the busiest first."""
    found: dict[tuple[str, str, str], Sum] = {}
    for flow in flows:
        left, right, port = oriented(flow)
        key = (name_of(left), name_of(right), port_text(flow.event.protocol, port))
        if key not in found and len(found) >= MOST_KEYS:
            key = (_OTHER, _OTHER, _OTHER)
        found.setdefault(key, Sum()).add(flow)
    return dict(sorted(found.items(), key=lambda item: (-item[1].connections, -item[1].bytes, item[0])))


def graph(found: dict[tuple[str, str, str], Sum]) -> str:
    """The service map in Graphviz's language: red: dropped, orange: audited, green: through the tunnel."""
    edges: dict[tuple[str, str], tuple[list[str], Sum]] = {}
    for (left, right, port), total in found.items():
        ports, whole = edges.setdefault((left, right), ([], Sum()))
        ports.append(port)
        for name in vars(whole):
            setattr(whole, name, getattr(whole, name) + getattr(total, name))
    lines = ["digraph flows {", "  rankdir=LR;", "  node [shape=box];"]
    names = sorted({name for edge in edges for name in edge})
    lines += [f"  {_quoted(name)};" for name in names]
    for (left, right), (ports, total) in sorted(edges.items()):
        shown = ", ".join(ports[:_PORTS_SHOWN]) + (" …" if len(ports) > _PORTS_SHOWN else "")
        style = f"label={_quoted(shown)}, color={_edge_colour(total)}"
        lines.append(f"  {_quoted(left)} -> {_quoted(right)} [{style}];")
    return "\n".join([*lines, "}"])


_PORTS_SHOWN = 5


def _edge_colour(total: Sum) -> str:
    if total.dropped:
        return "red"
    if total.audited:
        return "orange"
    return "black" if total.plain else "darkgreen"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- top ---


@dataclass
class Top:
    """Three rankings: talkers (opener, answerer), drops (reason, direction), peers (the other end)."""

    talkers: dict[tuple[str, str], Sum] = field(default_factory=dict)
    drops: dict[tuple[str, str], Sum] = field(default_factory=dict)
    peers: dict[str, Sum] = field(default_factory=dict)

    def add(self, flow: Flow) -> None:
        """One flow."""
        left, right, _port = oriented(flow)
        _bounded(self.talkers, (_exact_name(left, flow), _exact_name(right, flow)), (_OTHER, _OTHER)).add(
            flow
        )
        event = flow.event
        if event.kind is Kind.DROP or event.verdict in _DENIED:
            reason = drop_reason(event.drop_reason) if event.drop_reason else "Policy denied"
            _bounded(self.drops, (reason, event.direction.name.lower()), (_OTHER, _OTHER)).add(flow)
        inwards = event.direction is Direction.INGRESS
        peer = left if inwards is not bool(event.is_reply) else right
        _bounded(self.peers, _exact_name(peer, flow), _OTHER).add(flow)


def _bounded(found: dict[Any, Sum], key: Any, other: Any) -> Sum:
    if key not in found and len(found) >= MOST_KEYS:
        key = other
    return found.setdefault(key, Sum())


def ranked(found: dict[Any, Sum], count: int) -> list[tuple[Any, Sum]]:
    """The first so many: by bytes, then by connections."""
    order = sorted(found.items(), key=lambda item: (-item[1].bytes, -item[1].connections, item[0]))
    return order[:count]
