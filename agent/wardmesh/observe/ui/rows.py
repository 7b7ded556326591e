# SPDX-License-Identifier: Apache-2.0
"""A flow as the page shows it. What came over the network is cut to sane lengths here, once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

from wardmesh.model.fleetmap import Address
from wardmesh.observe import labelfilter
from wardmesh.observe.aggregate import WORLD, oriented, port_text
from wardmesh.observe.flow import ICMP, ICMP6, Flow, Kind, Party, Policy, Verdict
from wardmesh.observe.reasons import POLICY_MATCHES, TRACE_POINTS, drop_reason

FORWARDED, DROPPED, AUDITED = "forwarded", "dropped", "audited"
OUTCOMES = (FORWARDED, DROPPED, AUDITED)
_DENIED = (Verdict.DROPPED, Verdict.ERROR)
_LONGEST_NAME = 253  # RFC 1035 §2.3.4, a name in text form
_LONGEST_LABEL = 400  # prefix 253, name 63, value 63, source and signs
_MOST_LABELS = 64
_LONGEST_WORDS = 300
_MOST_POLICIES = 8
_ENDS = 16384  # ends that rows share


@dataclass(frozen=True)
class End:
    """One end of a flow. name: the member's, or world; index: the labels for selectors."""

    name: str
    labels: tuple[str, ...]
    index: labelfilter.Labels

    def __hash__(self) -> int:
        return hash((self.name, self.labels))


@functools.lru_cache(maxsize=_ENDS)
def _end(name: str, labels: tuple[str, ...]) -> End:
    return End(name, labels, labelfilter.index(labels))


def end_of(party: Party) -> End:
    """The end that a party is; equal parties share one."""
    labels = tuple(label[:_LONGEST_LABEL] for label in party.labels[:_MOST_LABELS])
    return _end(party.name[:_LONGEST_NAME] or WORLD, labels)


class Row(NamedTuple):
    """One line of the table, the opener on the left. bytes and packets: both ways."""

    number: int
    time_ms: int
    left: End
    right: End
    left_address: str
    right_address: str
    port: str
    outcome: str
    verdict: str
    encrypted: bool
    kind: str
    policies: str
    reason: str
    node: str
    bytes: int
    packets: int

    def document(self) -> dict[str, Any]:
        """For JSON."""
        made = {name: getattr(self, name) for name in _SHOWN}
        made.update({"from": self.left.name, "to": self.right.name})
        made.update({"fromAddress": self.left_address, "toAddress": self.right_address})
        made["time"] = self.time_ms
        return made


_SHOWN = ("number", "port", "outcome", "verdict", "encrypted", "kind", "policies", "reason", "node", "bytes")


def row_of(flow: Flow, number: int) -> Row:
    """The row of a flow; number: its place among all."""
    event = flow.event
    left, right, port = oriented(flow)
    ports = event.protocol not in (ICMP, ICMP6)
    opener, answerer, opened_from = event.source, event.destination, event.source_port
    if ports and event.is_reply:
        opener, answerer, opened_from = answerer, opener, event.destination_port
    traffic = event.traffic
    return Row(
        number,
        event.time_ns // 1_000_000,
        end_of(left),
        end_of(right),
        _place(opener, opened_from if ports else 0),
        str(answerer),
        port_text(event.protocol, port),
        outcome_of(event.verdict),
        event.verdict.name,
        event.encrypted,
        _kind(flow),
        _policies((*event.denied_by, *event.allowed_by)),
        _reason(flow),
        flow.node_name[: 2 * _LONGEST_NAME],
        traffic.bytes + traffic.bytes_back if traffic else 0,
        traffic.packets + traffic.packets_back if traffic else 0,
    )


def _place(address: Address, port: int) -> str:
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def outcome_of(verdict: Verdict) -> str:
    """The three that the page has colours for."""
    if verdict is Verdict.AUDIT:
        return AUDITED
    return DROPPED if verdict in _DENIED else FORWARDED


def _kind(flow: Flow) -> str:
    event = flow.event
    if event.kind is Kind.TRACE:
        return TRACE_POINTS.get(event.sub_type, "trace")
    side = event.direction.name.lower()
    return f"{'drop' if event.kind is Kind.DROP else 'verdict'} {side}"


def _policies(policies: tuple[Policy, ...]) -> str:
    names = [f"{policy.namespace}/{policy.name}".lstrip("/") for policy in policies[:_MOST_POLICIES]]
    return ", ".join(dict.fromkeys(names))[:_LONGEST_WORDS]


def _reason(flow: Flow) -> str:
    event = flow.event
    if event.drop_reason:
        return drop_reason(event.drop_reason)
    if event.verdict in _DENIED or event.verdict is Verdict.AUDIT:
        return "Policy denied"
    if event.traffic is not None and event.traffic.closed:
        return "closed"
    match = POLICY_MATCHES.get(event.policy_match_type, "")
    return "" if event.kind is Kind.TRACE or match == "none" else match
