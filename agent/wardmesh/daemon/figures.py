# SPDX-License-Identifier: Apache-2.0
"""Figures that only the agent knows about itself: how long policies took, what it logged, since when."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardmesh.daemon.log import COUNTED

if TYPE_CHECKING:
    from collections.abc import Iterator

# Upper bounds in seconds. A small set takes milliseconds, ten thousand rules take seconds.
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Delays:
    """Durations counted into buckets and one beyond them. clock: monotonic; bounds: ascending; in seconds."""

    def __init__(self, clock: Callable[[], float], bounds: Sequence[float] = BUCKETS) -> None:
        self._clock = clock
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count how long the block takes; a block that fails is not counted."""
        start = self._clock()
        yield
        self.add(self._clock() - start)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def as_dict(self) -> dict[str, Any]:
        """count, sum (seconds), and cumulative counts by upper bound."""
        total, buckets = 0, []
        for bound, count in zip(self._bounds, self._counts):
            total += count
            buckets.append([bound, total])
        return {"count": sum(self._counts), "sum": round(self._sum, 6), "buckets": buckets}


def changed_at(path: Path) -> float:
    """When a file was written, in unix seconds; 0 where there is none, or it cannot be seen."""
    try:
        return round(path.stat().st_mtime, 3)
    except OSError:
        return 0.0


def log_counts() -> dict[str, int]:
    """Lines that the agent logged, by level."""
    return dict(COUNTED.counts)
