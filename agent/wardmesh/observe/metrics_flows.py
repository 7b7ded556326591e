# SPDX-License-Identifier: Apache-2.0
"""Counters of flow events. Everything is bounded, whatever the events hold."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

OTHER = "other"
PORTS_MAX = 50  # series of hubble_port_distribution_total, beside `other`
PORT_FROM = 10  # flows after which a port gets a series of its own: a scan meets each port once
CANDIDATES_MAX = 4096
FRESH_MAX = 4096  # different events that are held before they are spread over the counters
KINDS_MAX = 200  # label sets of each other counter; the known ones are far fewer


# Words by upstream's numbers: event types and trace points (pkg/monitor/api), flow.Verdict.
_TYPES = {1: "Drop", 4: "Trace", 5: "PolicyVerdict"}
_POINTS = (
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
)
_VERDICTS = ("UNKNOWN", "FORWARDED", "DROPPED", "ERROR", "AUDIT", "REDIRECTED", "TRACED", "TRANSLATED")
_PASSED = (1, 4)  # FORWARDED, AUDIT
_DROP, _TRACE = 1, 4
_PROTOCOLS = {1: "ICMPv4", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
DROP_NAMES = {
    133: "Policy denied",
    134: "Invalid packet",
    155: "CT: Map insertion failed",
    157: "Fragmented packet",
    176: "Forbidden ICMPv6 message",
    181: "Policy denied by denylist",
    195: "Traffic is unencrypted",
}
# flow.LostEventSource, in lower case as upstream's metric has it.
LOST_SOURCES = ("unknown", "perf_event_ring_buffer", "observer_events_queue", "hubble_ring_buffer")
_TCP, _ICMP, _WITH_PORTS = 6, (1, 58), (6, 17, 132)
_FLAGS = {1: "FIN", 2: "SYN", 4: "RST", 8: "PSH", 16: "ACK", 32: "URG", 64: "ECE", 128: "CWR", 256: "NS"}


class Versioned(Protocol):
    """An IP address."""

    @property
    def version(self) -> int: ...


class CountedEvent(Protocol):
    """What is read of a flow event; wardmesh.observe.flow.FlowEvent has these fields, with these meanings."""

    @property
    def kind(self) -> int: ...
    @property
    def sub_type(self) -> int: ...
    @property
    def verdict(self) -> int: ...
    @property
    def drop_reason(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def source(self) -> Versioned: ...
    @property
    def destination_port(self) -> int: ...
    @property
    def tcp_flags(self) -> int: ...
    @property
    def icmp_type(self) -> int: ...
    @property
    def is_reply(self) -> bool | None: ...
    @property
    def traffic(self) -> object | None: ...


class Tally(NamedTuple):
    """Equal events added up.

    events: by kind, sub_type, drop_reason, verdict, protocol, version of the addresses, tcp_flags, icmp_type.
    ports: beginnings of connections that passed, by destination_port and protocol.
    """

    events: Mapping[tuple[int, ...], int]
    ports: Mapping[tuple[int, int], int]


def tally_of(events: Iterable[CountedEvent]) -> Tally:
    """What the counters need of some events."""
    seen: Counter[tuple[int, ...]] = Counter()
    ports: Counter[tuple[int, int]] = Counter()
    for event in events:
        seen[
            event.kind,
            event.sub_type,
            event.drop_reason,
            event.verdict,
            event.protocol,
            event.source.version,
            event.tcp_flags,
            event.icmp_type,
        ] += 1
        if _opens(event):
            ports[event.destination_port, event.protocol] += 1
    return Tally(seen, ports)


@dataclass(frozen=True)
class FlowTotals:
    """A copy of the counters: label values, in the order of the table of metrics, to counts."""

    processed: Mapping[tuple[str, ...], int]
    drops: Mapping[tuple[str, ...], int]
    flags: Mapping[tuple[str, ...], int]
    icmp: Mapping[tuple[str, ...], int]
    ports: Mapping[tuple[str, ...], int]
    lost: Mapping[tuple[str, ...], int]


class FlowCounters:
    """Counts flow events; any thread may call anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processed: Counter[tuple[str, ...]] = Counter()
        self._drops: Counter[tuple[str, ...]] = Counter()
        self._flags: Counter[tuple[str, ...]] = Counter()
        self._icmp: Counter[tuple[str, ...]] = Counter()
        self._ports: Counter[tuple[str, ...]] = Counter()
        # From zero on: what is not there before it grows, nobody sees growing.
        self._lost: Counter[tuple[str, ...]] = Counter({(source,): 0 for source in LOST_SOURCES[1:]})
        self._candidates: Counter[tuple[str, ...]] = Counter()
        self._own_ports = 0
        self._fresh: Counter[tuple[int, ...]] = Counter()
        self._fresh_ports: Counter[tuple[int, int]] = Counter()

    def count_all(self, events: Iterable[CountedEvent]) -> None:
        """Take in a batch."""
        self.add(tally_of(events))

    def add(self, tally: Tally) -> None:
        """Take in what was added up. Words are found for it when somebody asks."""
        with self._lock:
            self._fresh.update(tally.events)
            self._fresh_ports.update(tally.ports)
            if len(self._fresh) + len(self._fresh_ports) >= FRESH_MAX:
                self._settle()

    def _settle(self) -> None:
        """Spread what came since the last time over the counters."""
        for key, count in self._fresh.items():
            kind, sub_type, reason, verdict, number, version, flags, icmp_type = key
            protocol = _PROTOCOLS.get(number, str(number))
            family = f"IPv{version}"
            subtype = drop_name(reason) if kind == _DROP else _point(kind, sub_type)
            words = (_TYPES.get(kind, str(int(kind))), subtype, _word(_VERDICTS, verdict))
            _add(self._processed, words, count)
            if kind == _DROP:
                _add(self._drops, (drop_name(reason), protocol), count)
            if number == _TCP:
                for bit, flag in _FLAGS.items():
                    if flags & bit:
                        _add(self._flags, (flag, family), count)
            if number in _ICMP:
                _add(self._icmp, (family, str(icmp_type)), count)
        for (port, number), count in self._fresh_ports.items():
            self._count_port((str(port), _PROTOCOLS.get(number, str(number))), count)
        self._fresh.clear()
        self._fresh_ports.clear()

    def lose(self, source: int, events: int) -> None:
        """So many events were lost at this place (flow.LostEventSource), beside those told before."""
        with self._lock:
            self._lost[LOST_SOURCES[source] if 0 <= source < len(LOST_SOURCES) else LOST_SOURCES[0],] += (
                events
            )

    def totals(self) -> FlowTotals:
        """What was counted so far."""
        with self._lock:
            self._settle()
            return FlowTotals(
                dict(self._processed),
                dict(self._drops),
                dict(self._flags),
                dict(self._icmp),
                dict(self._ports),
                dict(self._lost),
            )

    def _count_port(self, key: tuple[str, ...], count: int) -> None:
        """A port is `other` until it is busy; it keeps its series then, for counters never go back."""
        if key in self._ports:
            self._ports[key] += count
            return
        other = (OTHER, key[1] if len(self._ports) < KINDS_MAX else OTHER)
        if self._own_ports >= PORTS_MAX:
            self._ports[other] += count
            return
        if len(self._candidates) >= CANDIDATES_MAX and key not in self._candidates:
            self._candidates.clear()  # a scan; what is busy is soon back
        early = min(count, PORT_FROM - self._candidates[key])
        self._candidates[key] += early
        self._ports[other] += early
        if self._candidates[key] >= PORT_FROM:
            del self._candidates[key]
            self._ports[key] = count - early
            self._own_ports += 1


def _add(counter: Counter[tuple[str, ...]], key: tuple[str, ...], amount: int) -> None:
    """Count under the key, or under `other` when there are too many already."""
    if key not in counter and len(counter) >= KINDS_MAX:
        key = (OTHER,) * len(key)
    counter[key] += amount


def drop_name(reason: int) -> str:
    """Upstream's words for a drop reason, as far as guard and firewall have it; else its number."""
    return DROP_NAMES.get(reason, str(reason))


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else str(number)


def _point(kind: int, sub_type: int) -> str:
    return _word(_POINTS, sub_type) if kind == _TRACE else ""


def _opens(event: CountedEvent) -> bool:
    """Is it the beginning of a connection that passed? The event of its end carries what it moved."""
    return bool(
        event.protocol in _WITH_PORTS
        and event.destination_port
        and event.verdict in _PASSED
        and not event.is_reply
        and event.traffic is None
    )
