# SPDX-License-Identifier: Apache-2.0
"""The last so many flows, in the order in which they were seen. Readers have cursors; nobody waits for them.

A reader that is slower than the flows is overtaken: it is told how many it has missed, and goes on with the
oldest that is still there. So neither a slow client nor a stopped one costs memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Union

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.flow import Flow, Lost, LostSource

Entry = Union[Flow, Lost]
Keep = Callable[[Flow], bool]
DEFAULT_CAPACITY = 4095
LARGEST = 65535  # upstream's own bound (pkg/hubble/container, capacity)
_RATE_WINDOW = 60  # seconds that the rate of flows is a mean of
_BATCH = 256  # entries that a reader takes under the lock at once


def check_capacity(value: int) -> int:
    """The value, where it is 2^n - 1 up to 65535 as upstream demands; else WardmeshError."""
    if 0 < value <= LARGEST and value & (value + 1) == 0:
        return value
    near = min((1 << max(1, value.bit_length())) - 1, LARGEST) if value > 0 else 1
    raise WardmeshError(
        f"{value} is no capacity of the flow buffer",
        where="hubble.eventBufferCapacity",
        why="it is one less than a power of two, at most 65535",
        remedy=f"use {near}",
    )


class Ring:
    """Bounded, thread-safe. Entries are numbered from 0; the oldest still here has number `seen - len`."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self._entries: list[Entry | None] = [None] * capacity
        self._end = 0  # the number that the next entry gets
        self._flows = 0
        self._closed = False
        self._changed = threading.Condition()
        self._clock = clock
        self._started = clock()
        self._seconds: dict[int, int] = {}  # second to flows in it

    # --- writing ---

    def add(self, entries: Iterable[Entry]) -> None:
        """Append; wakes every reader that waits, once."""
        with self._changed:
            count = 0
            for entry in entries:
                self._entries[self._end % self.capacity] = entry
                self._end += 1
                count += isinstance(entry, Flow)
            if count:
                self._flows += count
                self._count(count)
            self._changed.notify_all()

    def _count(self, count: int) -> None:
        second = int(self._clock())
        self._seconds[second] = self._seconds.get(second, 0) + count
        if len(self._seconds) > _RATE_WINDOW:
            for old in [known for known in self._seconds if known <= second - _RATE_WINDOW]:
                del self._seconds[old]

    def close(self) -> None:
        """Nothing comes any more: readers that follow end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let every waiting reader look whether its client is still there."""
        with self._changed:
            self._changed.notify_all()

    # --- figures ---

    @property
    def seen(self) -> int:
        """Flows since the start."""
        return self._flows

    def __len__(self) -> int:
        return min(self._end, self.capacity)

    def rate(self) -> float:
        """Flows a second, over the last minute or since the start."""
        now = self._clock()
        with self._changed:
            recent = sum(n for second, n in self._seconds.items() if second > now - _RATE_WINDOW)
        return recent / max(1.0, min(now - self._started, _RATE_WINDOW))

    # --- reading ---

    @property
    def end(self) -> int:
        """The number that the next entry will get."""
        return self._end

    @property
    def oldest(self) -> int:
        """The number of the oldest entry that is here."""
        return max(0, self._end - self.capacity)

    def take(self, cursor: int, until: int | None = None) -> tuple[Sequence[Entry], int]:
        """Up to some hundred entries from a cursor on, and the cursor behind them; none at the end.

        until: no entry from this number on. Where the cursor was overtaken, the first entry says by how many.
        """
        with self._changed:
            limit = self._end if until is None else min(until, self._end)
            first = max(cursor, self.oldest)
            last = min(limit, first + _BATCH)
            found = [self._entries[number % self.capacity] for number in range(first, last)]
        entries = [entry for entry in found if entry is not None]
        missed = min(first, limit) - cursor
        if missed > 0:
            entries.insert(0, _lost_in_ring(missed, entries))
        return entries, last if last > first else max(cursor, min(first, limit))

    def wait(self, cursor: int, timeout: float) -> bool:
        """Wait until something stands behind the cursor; False when closed with nothing left."""
        with self._changed:
            if self._end <= cursor and not self._closed:
                self._changed.wait(timeout)
            return self._end > cursor or not self._closed

    def backwards(self) -> Iterator[tuple[int, Entry]]:
        """Number and entry from the newest to the oldest, in batches; ends where it was overtaken."""
        high = self._end
        while high > self.oldest:
            low = max(self.oldest, high - _BATCH)
            with self._changed:
                low = max(low, self.oldest)
                found = [(n, self._entries[n % self.capacity]) for n in range(high - 1, low - 1, -1)]
            for number, entry in found:
                if entry is not None:
                    yield number, entry
            high = low

    def start_of_last(self, count: int, keep: Keep, since_ns: int = 0, until_ns: int = 0) -> int:
        """The cursor from which the last so many flows follow that are kept; count 0 is all of them.

        since_ns, until_ns: only flows between these times count, 0 is no bound.
        """
        start, found = self._end, 0
        for number, entry in self.backwards():
            if isinstance(entry, Lost):
                start = start if count or entry.last_ns < since_ns else number
                continue
            stamp = entry.event.time_ns
            if since_ns and stamp < since_ns - _DISORDER_NS:
                break
            if (since_ns and stamp < since_ns) or (until_ns and stamp > until_ns) or not keep(entry):
                continue
            start, found = number, found + 1
            if count and found == count:
                break
        return start


# Events of different CPUs reach the ring out of order by less than this: the source is drained often.
_DISORDER_NS = 5_000_000_000


def _lost_in_ring(count: int, entries: Sequence[Entry]) -> Lost:
    stamp = next((entry.event.time_ns for entry in entries if isinstance(entry, Flow)), 0)
    return Lost(LostSource.RING, count, stamp, stamp)
