# SPDX-License-Identifier: Apache-2.0
"""When open flows began, by the slots that they hold; and which of them ended without a farewell.

A number for each slot is what is kept of a flow, and its first event for as long as its end is waited for.
New flows beyond a rate and a number are told, but not followed: their ends do not say how long they were.
"""

from __future__ import annotations

import heapq
import mmap
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from wardmesh.daemon.raw_events import Raw, column, event_at, length, longs, record, words
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import INGRESS
from wardmesh.datapath.event_ring import STRIDE
from wardmesh.datapath.ticks import seconds_until

OPEN_MAX = 1 << 17  # flows whose end is waited for
RATE = 5_000  # events a second that are followed; more are a flood
_BURST = 1 << 14  # that may come at once
_ADDRESS_WORDS = 4  # of source and destination
FlowAt = Callable[[int, int, bytes], "bytes | None"]


class Slots:
    """Of one table: the times of first packets (monotonic ns, 0: none), and marks of whose they are."""

    def __init__(self, room: int) -> None:
        # Anonymous pages: what was never written costs nothing.
        self.times = memoryview(mmap.mmap(-1, 8 * room)).cast("Q")
        self.marks = memoryview(mmap.mmap(-1, 4 * room)).cast("I")


class Ages:
    """flow_at: a flow's entry by family (4 or 6), the number of its slot, and its key; None when it lost it.

    rooms: slots of the tables by family. fresh: seconds after which a flow that was not answered may be over.
    """

    def __init__(self, rooms: Mapping[int, int], flow_at: FlowAt, fresh: float) -> None:
        self._slots = {family: Slots(room) for family, room in rooms.items()}
        self._flow_at, self._fresh = flow_at, fresh
        self._young: deque[tuple[float, bytes]] = deque()  # when to look, first events
        self._old: list[tuple[float, int, bytes]] = []  # when to look, the flow's beginning, first event
        self._held = 0
        self._allowed, self._counted = 0.0, 0.0
        self._passed_over = 0  # monotonic ns up to which not every event was followed

    def note(self, data: bytes, now: float) -> dict[int, int]:
        """Take in events (raw_events); when the flows of later packets among them began, by place."""
        kinds = column(data, "kind")
        if kinds.count(ev.EVENT_DROP) == len(kinds):
            return {}
        followed = self._allow(len(kinds), now)
        if followed < len(kinds):
            self._passed_over = event_at(data, len(kinds) - 1).time
            data = data[: followed * STRIDE]
        begins: dict[int, int] = {}
        new: list[bytes] = []
        columns = [column(data, name) for name in ("kind", "family", "opened", "direction")]
        slots = {socket.AF_INET: self._slots[4], socket.AF_INET6: self._slots[6]}
        only_new = columns[0].count(ev.EVENT_NEW) == followed and columns[2] == columns[3]
        rows = zip(*columns, words(data, "place"), longs(data, "time"), _marks(data))
        for number, (kind, family, opened, direction, place, stamp, mark) in enumerate(rows):
            if kind == ev.EVENT_DROP:
                continue
            held = slots[family]
            if kind == ev.EVENT_NEW:
                if opened == direction:
                    held.times[place], held.marks[place] = stamp, mark
                    if not only_new:
                        new.append(data[number * STRIDE : (number + 1) * STRIDE])
                continue
            if held.times[place] and held.marks[place] == mark:
                begins[number] = held.times[place]
            if kind == ev.EVENT_CLOSING:
                held.times[place] = 0
        self._wait_for(data if only_new else b"".join(new), now)
        return begins

    def _allow(self, wanted: int, now: float) -> int:
        self._allowed = min(_BURST, self._allowed + (now - self._counted) * RATE)
        self._counted = now
        allowed = min(wanted, int(self._allowed))
        self._allowed -= allowed
        return allowed

    def _wait_for(self, new: bytes, now: float) -> None:
        new = new[: (OPEN_MAX - self._held) * STRIDE]
        if new:
            self._held += length(new)
            self._young.append((now + self._fresh, new))

    def over(self, now: float) -> Iterator[tuple[bytes, int]]:
        """Ends of flows whose time is over, as events (raw_events), each with the flow's beginning."""
        while self._young and self._young[0][0] <= now:
            _when, data = self._young.popleft()
            for start in range(0, len(data), STRIDE):
                yield from self._look_at(data[start : start + STRIDE], now)
        while self._old and self._old[0][0] <= now:
            yield from self._look_at(heapq.heappop(self._old)[2], now)

    def _look_at(self, data: bytes, now: float) -> Iterator[tuple[bytes, int]]:
        """Is it over? Its counters are those of its slot, as long as it is still its own."""
        first = event_at(data, 0)
        held = self._slots[6 if first.family == socket.AF_INET6 else 4]
        self._held -= 1
        if held.times[first.place] != first.time:
            return  # it has said farewell, or another has begun there
        flow = self._flow_at(*_slot_of(first))
        fields = fw.FLOW.unpack(flow) if flow is not None else None
        left = seconds_until(fields[10]) if fields is not None else -1
        if left >= 0:
            heapq.heappush(self._old, (now + left + 1, first.time, data))
            self._held += 1
            return
        held.times[first.place] = 0
        said = fields is None or fields[11] & fw.FLOW_CLOSING
        if said and first.time <= self._passed_over:
            return  # its farewell may be among what was passed over
        yield record(_ended(first, fields[4:8] if fields is not None else (0, 0, 0, 0))), first.time


def _ended(first: Raw, counters: tuple[int, ...]) -> Raw:
    """The end of a flow, as the kernel would tell it. counters: bytes and packets, each there and back."""
    there, back, packets, packets_back = counters
    return first._replace(
        time=time.monotonic_ns(),
        kind=ev.EVENT_CLOSING,
        tcp_flags=0,
        bytes_there=there,
        bytes_back=back,
        packets_there=packets,
        packets_back=packets_back,
    )


def _slot_of(first: Raw) -> tuple[int, int, bytes]:
    """Family, number of the slot, and the key as it lies there, of the flow that this packet opened."""
    there, back = (first.source, first.sport), (first.dest, first.dport)
    remote, local = (there, back) if first.direction == INGRESS else (back, there)
    family, layout, size = (6, fw.FLOW6_KEY, 16) if first.family == socket.AF_INET6 else (4, fw.FLOW4_KEY, 4)
    key = layout.pack(remote[0][:size], local[0][:size], remote[1], local[1], first.protocol)
    return family, first.place, key


def _marks(data: bytes) -> memoryview:
    """A number of each event that is the same for both directions of its flow, and seldom for two flows."""
    size = 4 * (len(data) // STRIDE)
    ports = bytearray(size)
    for byte in (0, 1):
        ports[byte::4], ports[2 + byte :: 4] = column(data, "sport", byte), column(data, "dport", byte)
    held = int.from_bytes(ports, "little") ^ int.from_bytes(_swapped(ports), "little")
    for name in ("source", "dest"):
        for word in range(_ADDRESS_WORDS):
            held ^= int.from_bytes(words(data, name, word).tobytes(), "little")
    return memoryview(held.to_bytes(size, "little")).cast("I")


def _swapped(ports: bytearray) -> bytearray:
    """The same with source and destination exchanged."""
    found = bytearray(len(ports))
    for byte in range(4):
        found[byte::4] = ports[(byte + 2) % 4 :: 4]
    return found
