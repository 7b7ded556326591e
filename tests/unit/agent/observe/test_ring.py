# SPDX-License-Identifier: Apache-2.0
"""The ring: bounds, cursors, and what an overtaken reader is told."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.agent.observe.support import TIME, flow

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.flow import Flow, Lost, LostSource
from wardmesh.observe.ring import Ring, check_capacity

FLOWS = [flow(number) for number in range(400)]


def number(entry: object) -> int:
    assert isinstance(entry, Flow)
    return entry.event.source_port - 40000


@pytest.mark.parametrize("good", [1, 3, 4095, 65535])
def test_capacities_are_one_less_than_a_power_of_two(good: int) -> None:
    assert check_capacity(good) == good


@pytest.mark.parametrize(
    ("bad", "near"), [(0, 1), (2, 3), (4096, 8191), (4000, 4095), (131071, 65535), (-5, 1)]
)
def test_other_capacities_are_refused_with_the_next_that_fits(bad: int, near: int) -> None:
    with pytest.raises(WardmeshError) as caught:
        check_capacity(bad)
    assert str(near) in caught.value.remedy


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 60), st.just(0)), max_size=12), st.sampled_from([1, 3, 15, 63]))
def test_a_reader_gets_every_flow_or_is_told_how_many_it_missed(steps: list[int], capacity: int) -> None:
    """A step adds so many flows; 0 lets the reader take once."""
    ring, cursor, added, got, missed = Ring(capacity), 0, 0, [], 0
    for step in [*steps, *[0] * 20]:
        if step:
            batch = FLOWS[added : added + min(step, len(FLOWS) - added)]
            ring.add(batch)
            added += len(batch)
            assert len(ring) <= capacity
            continue
        entries, cursor = ring.take(cursor)
        for entry in entries:
            if isinstance(entry, Lost):
                assert entry.source is LostSource.RING
                missed += entry.number
            else:
                got.append(number(entry))
    assert got == sorted(set(got))
    assert len(got) + missed == added == ring.seen


def test_a_snapshot_ends_where_it_was_taken_even_when_overtaken() -> None:
    ring = Ring(3)
    ring.add(FLOWS[:3])
    stop = ring.end
    ring.add(FLOWS[3:10])
    entries, cursor = ring.take(0, stop)
    assert [entry.number for entry in entries if isinstance(entry, Lost)] == [3]
    assert cursor == stop and ring.take(cursor, stop) == ([], stop)


def test_a_waiting_reader_wakes_by_a_flow_and_by_the_end() -> None:
    ring = Ring(15)
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(ring.wait(0, 30)))
    thread.start()
    ring.add(FLOWS[:1])
    thread.join(10)
    assert woken == [True]
    ring.close()
    assert ring.wait(1, 30) is False


def test_the_rate_is_that_of_the_last_minute() -> None:
    now = [1000.0]
    ring = Ring(15, clock=lambda: now[0])
    ring.add(FLOWS[:20])
    now[0] += 10
    assert ring.rate() == 2.0
    now[0] += 1000
    assert ring.rate() == 0.0
    for _second in range(500):
        now[0] += 1
        ring.add(FLOWS[:3])
    assert 2.9 < ring.rate() < 3.1


def test_flows_that_came_a_little_out_of_order_are_found_by_time() -> None:
    ring = Ring(63)
    ring.add([flow(5), flow(9), flow(7), flow(30)])
    start = ring.start_of_last(0, lambda _flow: True, since_ns=TIME + 7_000_000)
    entries, _cursor = ring.take(start)
    assert [number(entry) for entry in entries] == [9, 7, 30]


def test_a_hundred_thousand_flows_do_not_grow_the_ring() -> None:
    ring = Ring(255)
    for _turn in range(250):
        ring.add(FLOWS)
    assert len(ring) == 255 and ring.seen == 100_000
