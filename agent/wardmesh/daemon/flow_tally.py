# SPDX-License-Identifier: Apache-2.0
"""Pure: the kernel's events added up for the metrics, by columns of bytes, not by looking at each of them.

Columns are folded into one another: each value of a column gets a small number, so that two columns, each
seen as one big integer and added up, are a column of the numbers of their pairs. Traffic has few of them.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress

from wardmesh.daemon.raw_events import column, halves
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath.contract import INGRESS
from wardmesh.observe.flow import SCTP, TCP, UDP, Kind, Verdict
from wardmesh.observe.metrics_flows import Tally

FROM_NETWORK, TO_NETWORK = 10, 11  # flow.TraceObservationPoint
AUDITED = 66
_FIELDS = ("kind", "reason", "direction", "family", "protocol", "tcp_flags", "icmp_type")
_WITH_PORTS = (TCP, UDP, SCTP)
_EVERY = bytes(range(256))
Names = dict[int, tuple[int, ...]]
_WHOLE = b"\0\xff" + bytes(254)
_FEW = 48  # values up to which counting each is cheaper than a dictionary


def tally(data: bytes) -> Tally:
    """What the metrics need of some events (raw_events)."""
    if not data:
        return Tally({}, {})
    found: Counter[tuple[int, ...]] = Counter()
    fields = [column(data, name) for name in _FIELDS]
    for values, count in joint(fields).items():
        found[_key(*values)] += count
    by_name = dict(zip(_FIELDS, fields))
    return Tally(found, _ports(data, by_name["kind"], by_name["protocol"]))


def _key(
    kind: int, reason: int, direction: int, family: int, protocol: int, flags: int, icmp: int
) -> tuple[int, ...]:
    """As the event itself would be counted (flow_events)."""
    version = 6 if family == socket.AF_INET6 else 4
    rest = (protocol, version, flags, icmp)
    if kind == ev.EVENT_DROP:
        return (Kind.DROP, reason, reason, Verdict.DROPPED, *rest)
    if kind == ev.EVENT_NEW:
        return (Kind.VERDICT, 0, 0, Verdict.AUDIT if reason == AUDITED else Verdict.FORWARDED, *rest)
    return (Kind.TRACE, FROM_NETWORK if direction == INGRESS else TO_NETWORK, 0, Verdict.FORWARDED, *rest)


def _ports(data: bytes, kinds: bytes, protocols: bytes) -> dict[tuple[int, int], int]:
    """New connections by port and protocol."""
    pairs = column(data, "dport"), column(data, "dport", 1)
    found: dict[tuple[int, int], int] = {}
    for protocol in _WITH_PORTS:
        if protocol not in protocols:
            continue
        wanted = _both(kinds, ev.EVENT_NEW, protocols, protocol)
        chosen = [_masked(pair, wanted) for pair in pairs]  # 0 elsewhere, which is no port
        if _few(chosen):
            counts = {high << 8 | low: count for (high, low), count in joint(chosen).items()}
        else:
            ports = Counter(compress(halves(data, "dport"), wanted))
            counts = {socket.ntohs(port): count for port, count in ports.items()}
        found.update(((port, protocol), count) for port, count in counts.items() if port)
    return found


def _both(one: bytes, value: int, other: bytes, wanted: int) -> bytes:
    """1 where the first column has the one value and the second the other one, else 0."""
    if one.count(value) == len(one):
        return other.translate(_only(wanted))
    left, right = one.translate(_only(value)), other.translate(_only(wanted))
    both = int.from_bytes(left, "little") & int.from_bytes(right, "little")
    return both.to_bytes(len(one), "little")


def _masked(column_: bytes, wanted: bytes) -> bytes:
    """The column where the other one has 1, else 0."""
    if 0 not in wanted:
        return column_
    mask = int.from_bytes(wanted.translate(_WHOLE), "little")
    return (int.from_bytes(column_, "little") & mask).to_bytes(len(column_), "little")


def _only(value: int) -> bytes:
    """A table in which this value alone is 1."""
    return bytes(value) + b"\1" + bytes(len(_EVERY) - 1 - value)


def _few(columns: Sequence[bytes]) -> bool:
    return len(_values(columns[0])) * len(_values(columns[1])) < len(_EVERY)


def joint(columns: Sequence[bytes]) -> Counter[tuple[int, ...]]:
    """How often which values stand beside one another in columns of one length."""
    held = columns[0]
    names: Names = {value: (value,) for value in _values(held)}
    for later in columns[1:]:
        folded = _fold(held, names, later)
        if folded is None:  # too many to be numbered in a byte
            return Counter(zip(*columns))
        held, names = folded
    return Counter({names[number]: count for number, count in _counts(held)})


def _fold(held: bytes, names: Names, later: bytes) -> tuple[bytes, Names] | None:
    """Two columns as one, and what its numbers stand for. names: what those of the first one stand for."""
    right = _values(later)
    if len(names) * len(right) > len(_EVERY):
        left = _values(held)  # of the pairs that could be, few are there
        names = {number: names[number] for number in left}
    if len(names) * len(right) > len(_EVERY):
        return None
    if len(right) == 1:
        return held, {number: (*name, right[0]) for number, name in names.items()}
    first = int.from_bytes(held.translate(_numbered(names, len(right))), "little")
    second = int.from_bytes(later.translate(_numbered(right, 1)), "little")
    pairs = [(*name, other) for name in names.values() for other in right]
    return (first + second).to_bytes(len(held), "little"), dict(enumerate(pairs))


def _values(column_: bytes) -> bytes:
    """Which values are in a column."""
    missing = _EVERY.translate(None, column_)
    return _EVERY.translate(None, missing)


def _numbered(values: Iterable[int], step: int) -> bytes:
    """A table that gives each of these values its number, times the step."""
    table = bytearray(len(_EVERY))
    for number, value in enumerate(values):
        table[value] = number * step
    return bytes(table)


def _counts(held: bytes) -> Iterable[tuple[int, int]]:
    values = _values(held)
    if len(values) <= _FEW:
        return [(value, held.count(value)) for value in values]
    return Counter(held).items()
