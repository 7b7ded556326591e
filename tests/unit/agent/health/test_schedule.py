# SPDX-License-Identifier: Apache-2.0
"""The load of checks does not grow with the fleet, comes in no bursts, and leaves nobody out."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from wardmesh.health.schedule import RATE, Schedule, plan

SIZES = (2, 3, 10, 21, 22, 100, 257)


def fleet(count: int, interval: float = 10.0) -> dict[str, Schedule]:
    names = [f"host{number}" for number in range(count)]
    return {name: Schedule(names, name, interval) for name in names}


@pytest.mark.parametrize("count", SIZES)
def test_everybody_checks_everybody_within_a_cycle(count: int) -> None:
    for own, schedule in fleet(count).items():
        seen = {slot.peer for number in range(7, 7 + schedule.plan.rounds) for slot in schedule.round(number)}
        assert seen == {f"host{number}" for number in range(count)} - {own}


@pytest.mark.parametrize("count", SIZES)
def test_in_each_round_everybody_is_checked_as_often_as_he_checks(count: int) -> None:
    schedules = fleet(count)
    for number in (0, 1, 12345):
        asked = Counter(slot.peer for held in schedules.values() for slot in held.round(number))
        partners = plan(count, 10.0).partners
        assert set(asked.values()) == {partners} and len(asked) == count


@pytest.mark.parametrize("count", SIZES)
def test_checks_of_one_host_are_a_spacing_apart(count: int) -> None:
    for schedule in fleet(count).values():
        length = schedule.plan.interval
        times = [number * length + slot.after for number in (0, 1) for slot in schedule.round(number)]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(gap == pytest.approx(schedule.plan.spacing) for gap in gaps)
        assert all(0 <= slot.after < length + schedule.plan.spacing for slot in schedule.round(3))


@pytest.mark.parametrize("count", [10, 100, 257])
def test_a_host_is_never_checked_by_many_at_once(count: int) -> None:
    """At most two of those who check it fall into any spacing: each has a slot of its own."""
    spacing = plan(count, 10.0).spacing
    arrivals = defaultdict(list)
    for schedule in fleet(count).values():
        for number in (4, 5):
            for slot in schedule.round(number):
                arrivals[slot.peer].append(number * 10.0 + slot.after)
    for times in arrivals.values():
        times.sort()
        assert all(times[place + 2] - times[place] > spacing * 0.999 for place in range(len(times) - 2))


def test_rate_is_bounded_whatever_the_interval_and_size() -> None:
    for members in (2, 10, 1000, 20000):
        for interval in (1.0, 10.0, 60.0, 3600.0):
            found = plan(members, interval)
            assert found.partners / interval <= RATE
            assert found.cycle >= (members - 1) / RATE or found.rounds == 1


def test_bounds_that_status_tells() -> None:
    assert (plan(10, 10.0).cycle, plan(100, 10.0).cycle, plan(1000, 10.0).cycle) == (10.0, 50.0, 500.0)
    assert plan(1, 10.0).cycle == 0 and list(Schedule(["a"], "a", 10.0).round(5)) == []


def test_who_comes_and_goes_changes_nothing_about_the_promises() -> None:
    names = [f"host{number}" for number in range(50)]
    before, after = Schedule(names, "host7", 10.0), Schedule(names[:-5], "host7", 10.0)
    gone = set(names[-5:])
    for schedule, missing in ((before, set()), (after, gone)):
        rounds = range(schedule.plan.rounds)
        seen = {slot.peer for number in rounds for slot in schedule.round(number)}
        assert seen == set(names) - {"host7"} - missing
