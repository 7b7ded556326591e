# SPDX-License-Identifier: Apache-2.0
"""Pure: what the last probes say. A window has fixed room, so ten thousand peers are a few megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

SIZE = 30  # probes: ten checks of three echoes
_LOST = -1.0


@dataclass(frozen=True)
class Figures:
    """Of one window: probes, those without an answer, seconds; None where nothing was answered.

    jitter: mean difference of two consecutive round trips, the |D| of RFC 3550 section 6.4.1 without its
    running gain of 1/16, which would need hundreds of probes until it tells anything.
    """

    sent: int
    lost: int
    last: float | None
    mean: float | None
    jitter: float | None

    @property
    def loss(self) -> float:
        """Share of lost probes, 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0


class Window:
    """The last SIZE round trips."""

    def __init__(self, size: int = SIZE) -> None:
        self._held = array("f", [_LOST]) * size
        self._next = 0
        self._count = 0

    def add(self, seconds: float | None) -> None:
        """One probe's round trip, None where it was lost."""
        self._held[self._next] = _LOST if seconds is None else max(0.0, seconds)
        self._next = (self._next + 1) % len(self._held)
        self._count = min(self._count + 1, len(self._held))

    def figures(self) -> Figures:
        """What they say together."""
        start = self._next - self._count
        values = [self._held[(start + place) % len(self._held)] for place in range(self._count)]
        answered = [value for value in values if value >= 0]
        return Figures(
            self._count,
            self._count - len(answered),
            answered[-1] if answered and values[-1] >= 0 else None,
            sum(answered) / len(answered) if answered else None,
            _jitter(values),
        )


def _jitter(values: Sequence[float]) -> float | None:
    """Over neighbours that were both answered."""
    steps = [abs(two - one) for one, two in zip(values, values[1:]) if one >= 0 and two >= 0]
    return sum(steps) / len(steps) if steps else None
