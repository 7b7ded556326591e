# SPDX-License-Identifier: Apache-2.0
"""The last so many flows, in the order in which they were seen. Readers have cursors; nobody waits for them.

Flows lie in stretches as they came from the kernel, and are read and named when a reader comes to them; the
last ones that were read are kept, so that many readers who follow cost one reading. A reader that is slower
than the flows is overtaken: it is told how many it has missed, and goes on with the oldest that is still
there. So neither a slow client nor a stopped one costs memory.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.flow import Flow, Lost, LostSource
from wardmesh.observe.stretch import Entry, Listed, Stretch

Keep = Callable[[Flow], bool]
Piece = tuple[int, Stretch, int, int]  # number of the first entry, its stretch, places there
DEFAULT_CAPACITY = 4095
LARGEST = 131071  # twice upstream's own bound (pkg/hubble/container, capacity)
_RATE_WINDOW = 60  # seconds that the rate of flows is a mean of
_BATCH = 256  # entries that a reader takes at once
_REMEMBERED = 4096  # entries that were read and are kept for the next reader


def check_capacity(value: int) -> int:
    """The value, where it is 2^n - 1 as upstream demands, up to 131071; else WardmeshError."""
    if 0 < value <= LARGEST and value & (value + 1) == 0:
        return value
    near = min((1 << max(1, value.bit_length())) - 1, LARGEST) if value > 0 else 1
    raise WardmeshError(
        f"{value} is no capacity of the flow buffer",
        where="hubble.eventBufferCapacity",
        why="it is one less than a power of two, at most 131071",
        remedy=f"use {near}",
    )


class Ring:
    """Bounded, thread-safe. Entries are numbered from 0; the oldest still here has number `seen - len`."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self._stretches: list[Stretch] = []
        self._starts: list[int] = []  # the number of each stretch's first entry
        self._end = 0  # the number that the next entry gets
        self._flows = 0
        self._closed = False
        self._changed = threading.Condition()
        self._reading = threading.Lock()  # who waits for it finds what it wanted read already
        self._read: dict[int, Entry] = {}
        self._clock = clock
        self._started = clock()
        self._seconds: dict[int, int] = {}  # second to flows in it

    # --- writing ---

    def add(self, entries: Iterable[Entry]) -> None:
        """Append what is read already; wakes every reader that waits, once."""
        self.put(Listed(entries))

    def put(self, stretch: Stretch) -> None:
        """Append a stretch, which is the ring's from now on; wakes every reader that waits, once."""
        with self._changed:
            length, flows = len(stretch), stretch.flows
            if not self._stretches or not self._stretches[-1].take_in(stretch):
                self._stretches.append(stretch)
                self._starts.append(self._end)
            self._end += length
            self._trim()
            if flows:
                self._flows += flows
                self._count(flows)
            self._changed.notify_all()

    def _trim(self) -> None:
        """Let go of stretches of which nothing is left."""
        gone = bisect_right(self._starts, self.oldest) - 1
        if gone > 0:
            del self._stretches[:gone], self._starts[:gone]

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
            pieces = self._pieces(first, last)
        entries = self._entries(pieces)
        missed = min(first, limit) - cursor
        if missed > 0:
            entries.insert(0, _lost_in_ring(missed, entries))
        return entries, last if last > first else max(cursor, min(first, limit))

    def _pieces(self, first: int, last: int) -> list[Piece]:
        """Where the entries from one number to before another one lie; the caller has the lock."""
        found: list[Piece] = []
        at = bisect_right(self._starts, first) - 1
        while first < last:
            start, stretch = self._starts[at], self._stretches[at]
            behind = min(last, start + len(stretch))
            found.append((first, stretch, first - start, behind - start))
            first, at = behind, at + 1
        return found

    def _entries(self, pieces: Iterable[Piece]) -> list[Entry]:
        """What lies there, read."""
        found: list[Entry] = []
        for number, stretch, first, last in pieces:
            with self._reading:
                known = [self._read.get(number + place) for place in range(last - first)]
                entries = [entry for entry in known if entry is not None]
                if len(entries) < len(known):
                    entries = list(stretch.entries(first, last))
                    if len(self._read) >= _REMEMBERED:
                        self._read.clear()
                    self._read.update(zip(range(number, number + last - first), entries))
            found += entries
        return found

    def wait(self, cursor: int, timeout: float) -> bool:
        """Wait until something stands behind the cursor; False when closed with nothing left."""
        with self._changed:
            if self._end <= cursor and not self._closed:
                self._changed.wait(timeout)
            return self._end > cursor or not self._closed

    def _backwards(self) -> Iterator[Piece]:
        """Pieces from the newest to the oldest; ends where it was overtaken."""
        high = self._end
        while high > self.oldest:
            with self._changed:
                pieces = self._pieces(max(self.oldest, high - _BATCH), high)
            yield from reversed(pieces)
            high -= _BATCH

    def start_of_last(
        self, count: int, keep: Keep | None = None, since_ns: int = 0, until_ns: int = 0
    ) -> int:
        """The cursor from which the last so many flows follow that are kept; count 0 is all of them.

        keep None: every flow, and none is read. since_ns, until_ns: only flows between these times count, 0
        is no bound.
        """
        start, found = self._end, 0
        for number, stretch, first, last in self._backwards():
            stamps = stretch.stamps(first, last)
            flows = [stamp for stamp in stamps if stamp is not None]
            if since_ns and flows and max(flows) < since_ns - _DISORDER_NS:
                break
            lost = len(flows) < len(stamps)
            inside = flows if not until_ns else [stamp for stamp in flows if stamp <= until_ns]
            entries = self._entries([(number, stretch, first, last)]) if lost or (keep and inside) else ()
            for place in range(last - first - 1, -1, -1):
                stamp = stamps[place]
                if stamp is None:
                    gap = entries[place]
                    if not count and isinstance(gap, Lost) and gap.last_ns >= since_ns:
                        start = number + place
                    continue
                if (since_ns and stamp < since_ns) or (until_ns and stamp > until_ns):
                    continue
                if keep is not None:
                    entry = entries[place]
                    if isinstance(entry, Flow) and not keep(entry):
                        continue
                start, found = number + place, found + 1
                if count and found == count:
                    return start
        return start


# Events of different CPUs reach the ring out of order by less than this: the source is drained often.
_DISORDER_NS = 5_000_000_000


def _lost_in_ring(count: int, entries: Sequence[Entry]) -> Lost:
    stamp = next((entry.event.time_ns for entry in entries if isinstance(entry, Flow)), 0)
    return Lost(LostSource.RING, count, stamp, stamp)
