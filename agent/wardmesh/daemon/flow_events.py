# SPDX-License-Identifier: Apache-2.0
"""Pure: the kernel's events as the observer's, with what was right when they came."""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from wardmesh.daemon.flow_tally import AUDITED, FROM_NETWORK, TO_NETWORK
from wardmesh.daemon.raw_events import Raw
from wardmesh.daemon.rule_book import WORLDS, RuleBook
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.model.fleetmap import Address
from wardmesh.observe.flow import ICMP, ICMP6, TCP, Direction, FlowEvent, Kind, Policy, Traffic, Verdict
from wardmesh.policy.engine import Grant

_ESTABLISHED, _REPLY = 2, 3  # flow.TraceReason
_L3_ONLY, _L3_L4, _ALL = 1, 2, 4  # upstream's PolicyMatchType (pkg/monitor/api)
_FAILSAFE = 67
_TUNNEL_DEVICES = "wardmesh_wg"
_ADDRESSES = 16384  # that are remembered


@dataclass(frozen=True)
class Sight:
    """What an event is read with. Never changed: another one is made, and old events keep theirs.

    own, identity: this member's. offset: unix less monotonic ns. devices: names by index; revision: of rules.
    """

    own: str
    identity: int
    offset: int
    devices: Mapping[int, str] = field(default_factory=dict)
    rules: RuleBook = field(default_factory=lambda: RuleBook({}, None, ""))
    revision: int = 0

    def event(self, raw: Raw, begin: int) -> FlowEvent:
        """One event of the ring. begin: when its flow did, monotonic ns; 0: not known."""
        inbound, icmp = raw.direction == INGRESS, raw.protocol in (ICMP, ICMP6)
        direction = Direction.INGRESS if inbound else Direction.EGRESS
        ports = (0, 0) if icmp else (int.from_bytes(raw.sport, "big"), int.from_bytes(raw.dport, "big"))
        ends = (raw.identity, self.identity) if inbound else (self.identity, raw.identity)
        device = self.devices.get(raw.ifindex, "")
        reply = raw.opened != raw.direction if raw.opened else None
        kind, verdict, point, reason = Kind.TRACE, Verdict.FORWARDED, 0, 0
        match, drop = 0, 0
        allowed: tuple[Policy, ...] = ()
        denied: tuple[Policy, ...] = ()
        traffic = None
        if raw.kind == ev.EVENT_NEW:
            grant = None if raw.reason == _FAILSAFE else self._grant(raw, ports)
            kind, reply = Kind.VERDICT, False
            verdict = Verdict.AUDIT if raw.reason == AUDITED else Verdict.FORWARDED
            match, allowed = _match(grant), self._named(grant)
        elif raw.kind == ev.EVENT_DROP:
            decided = raw.cell in (fw.DENY, fw.NO_RULE) and raw.opened
            grant = self._grant(raw, ports) if decided else None
            kind, verdict, drop = Kind.DROP, Verdict.DROPPED, raw.reason
            match, denied = _match(grant), self._named(grant)
        else:
            point = FROM_NETWORK if inbound else TO_NETWORK
            reason = _REPLY if reply else _ESTABLISHED
            traffic = _traffic(raw, begin)
        return FlowEvent(
            raw.time + self.offset,
            self.own,
            kind,
            verdict,
            direction,
            raw.protocol,
            _address(raw.family, raw.source),
            _address(raw.family, raw.dest),
            *ports,
            *ends,
            reply,
            raw.tcp_flags,
            raw.icmp_type,
            raw.icmp_code,
            drop,
            match,
            allowed,
            denied,
            raw.ifindex,
            device,
            device.startswith(_TUNNEL_DEVICES),
            point,
            reason,
            traffic,
        )

    def _grant(self, raw: Raw, ports: tuple[int, int]) -> Grant | None:
        answer = raw.opened != raw.direction
        port = raw.icmp_type if raw.protocol in (ICMP, ICMP6) else ports[0 if answer else 1]
        peer = WORLDS.get(raw.identity, str(raw.identity))
        return self.rules.grant(peer, raw.opened == INGRESS, raw.protocol, port)

    def _named(self, grant: Grant | None) -> tuple[Policy, ...]:
        if grant is None:
            return ()
        policy = grant.policy
        return (Policy(policy.name, policy.namespace, policy.kind, self.revision),)


def _traffic(raw: Raw, begin: int) -> Traffic:
    # Only where we opened it, the first answer has crossed the network twice.
    tells_rtt = raw.kind == ev.EVENT_ANSWERED and raw.protocol == TCP and raw.opened == EGRESS
    duration = raw.time - begin if begin else 0
    return Traffic(
        raw.packets_there,
        raw.packets_back,
        raw.bytes_there,
        raw.bytes_back,
        duration,
        duration if begin and tells_rtt else None,
        raw.kind == ev.EVENT_CLOSING,
    )


def _match(grant: Grant | None) -> int:
    if grant is None:
        return _ALL
    return _L3_ONLY if grant.ranges is None else _L3_L4


@functools.lru_cache(_ADDRESSES)
def _address(family: int, raw: bytes) -> Address:
    return ipaddress.ip_address(raw[:4] if family != socket.AF_INET6 else raw)
