# SPDX-License-Identifier: Apache-2.0
"""Pure: the kernel's events as the observer's. Keeps what is needed of open flows, at most so many."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import NamedTuple

from wardmesh.daemon.rule_book import WORLDS, RuleBook
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.model.fleetmap import Address
from wardmesh.observe.flow import Direction, FlowEvent, Kind, Policy, Traffic, Verdict
from wardmesh.policy.engine import Grant

OPEN_MAX = 1 << 17  # flows whose beginning is remembered; beyond it the oldest are forgotten
_FROM_NETWORK, _TO_NETWORK = 10, 11  # flow.TraceObservationPoint
_ESTABLISHED, _REPLY = 2, 3  # flow.TraceReason
_L3_ONLY, _L3_L4, _ALL = 1, 2, 4  # upstream's PolicyMatchType (pkg/monitor/api)
_AUDITED, _FAILSAFE = 66, 67
_ICMP = (1, 58)
_TCP = 6
_TUNNEL_DEVICES = "wardmesh_wg"


class Raw(NamedTuple):
    """event_contract.EVENT, field by field."""

    time: int
    source: bytes
    dest: bytes
    bytes_there: int
    bytes_back: int
    packets_there: int
    packets_back: int
    identity: int
    row: int
    generation: int
    ifindex: int
    place: int
    sport: bytes
    dport: bytes
    port_class: int
    kind: int
    reason: int
    direction: int
    opened: int
    cell: int
    state: int
    family: int
    protocol: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int


class Open(NamedTuple):
    """A flow that was told of. time: monotonic, ns; event: of its first packet."""

    time: int
    event: FlowEvent


class Translator:
    """own, identity: this member's. name_of: of a device by its index. offset: unix minus monotonic ns."""

    def __init__(self, own: str, identity: int, name_of: Callable[[int], str], offset: int) -> None:
        self._own, self._identity, self._name_of = own, identity, name_of
        self.offset = offset
        self.rules = RuleBook({}, None, "")
        self.revision = 0
        self.open: dict[tuple[int, int], Open] = {}

    def set_names(self, own: str, identity: int) -> None:
        """From now on events are this member's."""
        self._own, self._identity = own, identity

    def event(self, raw: Raw) -> FlowEvent:
        """One event of the ring."""
        base = self._base(raw)
        if raw.kind == ev.EVENT_NEW:
            return self._opened(raw, base)
        if raw.kind == ev.EVENT_DROP:
            return self._dropped(raw, base)
        key = (raw.family, raw.place)
        known = self.open.get(key)
        begin = known.time if known and _is_same(known.event, base) else None
        # Only where we opened it, the first answer has crossed the network twice.
        tells_rtt = raw.kind == ev.EVENT_ANSWERED and raw.protocol == _TCP and raw.opened == EGRESS
        traffic = Traffic(
            raw.packets_there,
            raw.packets_back,
            raw.bytes_there,
            raw.bytes_back,
            raw.time - begin if begin else 0,
            raw.time - begin if begin and tells_rtt else None,
            raw.kind == ev.EVENT_CLOSING,
        )
        if raw.kind == ev.EVENT_CLOSING:
            self.open.pop(key, None)
        return base._replace(traffic=traffic)

    def ended(self, key: tuple[int, int], now: int, counters: tuple[int, int, int, int] | None) -> FlowEvent:
        """A flow whose time is over without a farewell.

        counters: packets and bytes, there and back; None where nobody knows them any more.
        """
        begin, first = self.open.pop(key)
        carried = counters or (0, 0, 0, 0)
        return first._replace(
            time_ns=now + self.offset,
            kind=Kind.TRACE,
            verdict=Verdict.FORWARDED,
            traffic=Traffic(*carried, now - begin, None, closed=True),
            observation_point=_point(first.direction),
            trace_reason=_ESTABLISHED,
            policy_match_type=0,
            allowed_by=(),
            tcp_flags=0,
        )

    # --- kinds ---

    def _base(self, raw: Raw) -> FlowEvent:
        inbound = raw.direction == INGRESS
        icmp = raw.protocol in _ICMP
        reply = raw.opened != raw.direction if raw.opened else None
        device = self._name_of(raw.ifindex)
        direction = Direction.INGRESS if inbound else Direction.EGRESS
        return FlowEvent(
            raw.time + self.offset,
            self._own,
            Kind.TRACE,
            Verdict.FORWARDED,
            direction,
            raw.protocol,
            _address(raw.family, raw.source),
            _address(raw.family, raw.dest),
            0 if icmp else int.from_bytes(raw.sport, "big"),
            0 if icmp else int.from_bytes(raw.dport, "big"),
            raw.identity if inbound else self._identity,
            self._identity if inbound else raw.identity,
            reply,
            raw.tcp_flags,
            raw.icmp_type,
            raw.icmp_code,
            interface_index=raw.ifindex,
            interface=device,
            encrypted=device.startswith(_TUNNEL_DEVICES),
            observation_point=_point(direction),
            trace_reason=_REPLY if reply else _ESTABLISHED,
        )

    def _opened(self, raw: Raw, base: FlowEvent) -> FlowEvent:
        grant = None if raw.reason == _FAILSAFE else self._grant(raw, base)
        event = base._replace(
            kind=Kind.VERDICT,
            verdict=Verdict.AUDIT if raw.reason == _AUDITED else Verdict.FORWARDED,
            is_reply=False,
            policy_match_type=_match(grant),
            allowed_by=self._named(grant),
            observation_point=0,
            trace_reason=0,
        )
        if raw.opened == raw.direction:
            if len(self.open) >= OPEN_MAX:
                self.open.pop(next(iter(self.open)))
            self.open.pop((raw.family, raw.place), None)
            self.open[raw.family, raw.place] = Open(raw.time, event)
        return event

    def _dropped(self, raw: Raw, base: FlowEvent) -> FlowEvent:
        grant = self._grant(raw, base) if raw.cell in (fw.DENY, fw.NO_RULE) and raw.opened else None
        return base._replace(
            kind=Kind.DROP,
            verdict=Verdict.DROPPED,
            drop_reason=raw.reason,
            denied_by=self._named(grant),
            policy_match_type=_match(grant),
            observation_point=0,
            trace_reason=0,
        )

    def _grant(self, raw: Raw, base: FlowEvent) -> Grant | None:
        answer = raw.opened != raw.direction
        port = (
            base.icmp_type if raw.protocol in _ICMP else base.source_port if answer else base.destination_port
        )
        peer = WORLDS.get(raw.identity, str(raw.identity))
        return self.rules.grant(peer, raw.opened == INGRESS, raw.protocol, port)

    def _named(self, grant: Grant | None) -> tuple[Policy, ...]:
        if grant is None:
            return ()
        policy = grant.policy
        return (Policy(policy.name, policy.namespace, policy.kind, self.revision),)


def _point(direction: Direction) -> int:
    return _FROM_NETWORK if direction is Direction.INGRESS else _TO_NETWORK


def _match(grant: Grant | None) -> int:
    if grant is None:
        return _ALL
    return _L3_ONLY if grant.ranges is None else _L3_L4


def _address(family: int, raw: bytes) -> Address:
    return ipaddress.ip_address(raw[:4] if family != socket.AF_INET6 else raw)


def _is_same(first: FlowEvent, later: FlowEvent) -> bool:
    """Is a later packet of the flow that the slot was noted for?"""
    there = (first.source, first.destination, first.source_port, first.destination_port)
    found = (later.source, later.destination, later.source_port, later.destination_port)
    return found == there or found == (there[1], there[0], there[3], there[2])
