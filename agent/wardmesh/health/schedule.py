# SPDX-License-Identifier: Apache-2.0
"""Pure: whom a host checks when, so that neither sending nor answering grows with the fleet.

All members stand in a ring, in the order of a hash of their names. In a round of `interval` seconds everybody
checks the `partners` members that stand at the same distances before him; the next round takes the next
distances. So in every round each member is checked by exactly as many as he checks, and after `rounds` rounds
everybody has checked everybody. Within a round the checks are one `spacing` apart, and those who check the
same member do so in different slots.

Rounds are counted by the monotonic clock, from a number that the wall clock gives at the start. Hosts whose
clocks agree are in the same round; where they do not, the loads are the same in the mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

RATE = 2.0  # checks that a host begins in a second, at most; 20 partners in the seeds' interval of 10 s


@dataclass(frozen=True)
class Plan:
    """The load of one host. interval in seconds; partners: members that it checks in each interval."""

    members: int
    interval: float
    partners: int

    @property
    def rounds(self) -> int:
        """Intervals until every peer was checked."""
        return -(-(self.members - 1) // self.partners) if self.partners else 0

    @property
    def cycle(self) -> float:
        """Seconds in which every peer is checked at least once."""
        return self.rounds * self.interval

    @property
    def spacing(self) -> float:
        """Seconds between two checks of a host."""
        return self.interval / self.partners if self.partners else self.interval


def plan(members: int, interval: float) -> Plan:
    """The plan for a fleet of so many members, this host among them."""
    peers = max(0, members - 1)
    return Plan(members, interval, min(peers, max(1, int(RATE * interval))))


@dataclass(frozen=True)
class Slot:
    """One check: seconds after the beginning of its round, and whom."""

    after: float
    peer: str


class Schedule:
    """The rounds of one host. names: every member's, own among them."""

    def __init__(self, names: Iterable[str], own: str, interval: float) -> None:
        self._ring = ring({*names, own})
        self._own = self._ring.index(own)
        self.plan = plan(len(self._ring), interval)
        self._phase = _share(own)

    def round(self, number: int) -> Iterator[Slot]:
        """The checks of a round, in order of time."""
        peers, partners = len(self._ring) - 1, self.plan.partners
        for turn in range(partners):
            distance = (number * partners + turn) % peers + 1
            target = self._ring[(self._own + distance) % len(self._ring)]
            yield Slot((turn + self._phase) * self.plan.spacing, target)


def ring(names: Iterable[str]) -> list[str]:
    """All members in the order that every host computes alike."""
    return sorted(set(names), key=_place)


def _place(name: str) -> tuple[bytes, str]:
    return hashlib.sha256(name.encode()).digest(), name


def _share(name: str) -> float:
    """0 up to, and not, 1: spreads the hosts within a slot."""
    return int.from_bytes(hashlib.sha256(b"phase " + name.encode()).digest()[:6], "big") / (1 << 48)
