# SPDX-License-Identifier: Apache-2.0
"""The kernel's events as they lie in their ring, a column at a time: what must be quick looks at none alone.

Data is bytes of event_ring.take: STRIDE bytes for an event, of which the first ones are its head.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from wardmesh.datapath import event_contract as ev
from wardmesh.datapath.event_ring import HEAD, STRIDE


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


def _fields() -> Iterator[int]:
    """Where each field of an event starts, counted from its head."""
    at = 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", ev.EVENT.format[1:]):
        whole = code in "sx"
        size = struct.calcsize(f"={count if whole else ''}{code}")
        for _nth in range(1 if whole else int(count or 1)):
            if code != "x":
                yield HEAD.size + at
            at += size


_PLACES = dict(zip(Raw._fields, _fields()))


def length(data: bytes) -> int:
    """How many events there are."""
    return len(data) // STRIDE


def column(data: bytes, name: str, byte: int = 0) -> bytes:
    """One byte of a field, of all events."""
    return data[_PLACES[name] + byte :: STRIDE]


def halves(data: bytes, name: str) -> memoryview:
    """A field of two bytes, of all events, as numbers of this machine's order."""
    return memoryview(data).cast("H")[_PLACES[name] // 2 :: STRIDE // 2]


def words(data: bytes, name: str, word: int = 0) -> memoryview:
    """Four bytes of a field, of all events, as numbers. word: which four of them."""
    return memoryview(data).cast("I")[_PLACES[name] // 4 + word :: STRIDE // 4]


def longs(data: bytes, name: str) -> memoryview:
    """A field of eight bytes, of all events, as numbers."""
    return memoryview(data).cast("Q")[_PLACES[name] // 8 :: STRIDE // 8]


def constant(numbers: memoryview) -> int | None:
    """The number that all events have; None where they differ, or there are none."""
    raw, size = numbers.tobytes(), numbers.itemsize
    return int(numbers[0]) if raw and raw == raw[:size] * (len(raw) // size) else None


def event_at(data: bytes, number: int) -> Raw:
    """One event, all of it."""
    return Raw._make(ev.EVENT.unpack_from(data, number * STRIDE + HEAD.size))


def record(raw: Raw) -> bytes:
    """An event as it would lie in the ring."""
    body = ev.EVENT.pack(*raw)
    return (HEAD.pack(len(body), 0) + body).ljust(STRIDE, b"\0")
