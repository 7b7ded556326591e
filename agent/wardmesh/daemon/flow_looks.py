# SPDX-License-Identifier: Apache-2.0
"""What a look into the kernel's ring brought, as the observer keeps it: bytes, until somebody reads them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from wardmesh.daemon.flow_events import Sight
from wardmesh.daemon.flow_tally import tally
from wardmesh.daemon.raw_events import event_at, length, longs
from wardmesh.datapath.event_ring import STRIDE
from wardmesh.observe.flow import Events, FlowEvent
from wardmesh.observe.metrics_flows import Tally


class Look:
    """Events of observe.flow. data: raw_events; begins: when flows of later packets began, by their places.

    Processors tell of what they saw in turn, so a look is brought into the order of time before it is first
    read: many never are.
    """

    def __init__(self, data: bytes, sight: Sight, begins: Mapping[int, int]) -> None:
        self._data: bytes | bytearray = data
        self._sight, self._begins = sight, dict(begins)
        self._count = length(data)
        self._unsorted = [(0, self._count)]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def take_in(self, later: Events) -> bool:
        """Have a later look's events behind the own ones, if they are seen with the same eyes."""
        if not isinstance(later, Look) or later._sight is not self._sight:
            return False
        with self._lock:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += later._data
            self._begins.update((self._count + place, begin) for place, begin in later._begins.items())
            self._unsorted.append((self._count, self._count + len(later)))
            self._count += len(later)
        return True

    def tally(self) -> Tally:
        """What the metrics need of all of them."""
        return tally(bytes(self._data))

    def stamps(self, first: int, last: int) -> Sequence[int]:
        """Unix ns of those from one place to before another one."""
        offset = self._sight.offset
        return [stamp + offset for stamp in longs(self._between(first, last), "time")]

    def between(self, first: int, last: int) -> Sequence[FlowEvent]:
        """Those from one place to before another one, read."""
        data, event, begin = self._between(first, last), self._sight.event, self._begins.get
        return [event(event_at(data, number), begin(first + number, 0)) for number in range(length(data))]

    def _between(self, first: int, last: int) -> bytes:
        if self._unsorted:
            self._sort()
        return bytes(self._data[first * STRIDE : last * STRIDE])

    def _sort(self) -> None:
        with self._lock:
            while self._unsorted:
                first, last = self._unsorted[0]
                data = bytes(self._data[first * STRIDE : last * STRIDE])
                stamps = longs(data, "time").tolist()
                if any(map(int.__gt__, stamps, stamps[1:])):
                    self._reorder(first, data, sorted(range(last - first), key=stamps.__getitem__))
                del self._unsorted[0]

    def _reorder(self, first: int, data: bytes, order: Sequence[int]) -> None:
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)
        sorted_ = b"".join(data[old * STRIDE : (old + 1) * STRIDE] for old in order)
        self._data[first * STRIDE : first * STRIDE + len(data)] = sorted_
        begins = {first + old: self._begins.pop(first + old, 0) for old in order}
        self._begins.update(
            (first + new, begins[first + old]) for new, old in enumerate(order) if begins[first + old]
        )
