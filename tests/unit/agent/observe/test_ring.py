# SPDX-License-Identifier: Apache-2.0
"""The ring: bounds, cursors, and what an overtaken reader is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.agent.observe.support import HOSTS, TIME, event, fleet, flow, namer

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.flow import EventList, Events, Flow, FlowEvent, Lost, LostSource
from wardmesh.observe.names import Namer, Names
from wardmesh.observe.ring import Ring, check_capacity
from wardmesh.observe.stretch import LONGEST, Entry, Seen

FLOWS = [flow(number) for number in range(400)]


def number(entry: object) -> int:
    assert isinstance(entry, Flow)
    return entry.event.source_port - 40000


@pytest.mark.parametrize("good", [1, 3, 4095, 65535, 131071])
def test_capacities_are_one_less_than_a_power_of_two(good: int) -> None:
    assert check_capacity(good) == good


@pytest.mark.parametrize(
    ("bad", "near"), [(0, 1), (2, 3), (4096, 8191), (4000, 4095), (262143, 131071), (-5, 1)]
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


# --- stretches that are read when somebody asks ---


class Watched(EventList):
    """Events that know what was read of them."""

    def __init__(self, events: Iterable[FlowEvent]) -> None:
        super().__init__(events)
        self.read: list[tuple[int, int]] = []

    def between(self, first: int, last: int) -> Sequence[FlowEvent]:
        self.read.append((first, last))
        return super().between(first, last)


def seen(made: Namer, events: Events) -> Seen:
    return Seen(events, made.names, made.take(len(events)), made.uuid)


def everything(ring: Ring) -> list[Entry]:
    found: list[Entry] = []
    cursor = ring.oldest
    while cursor < ring.end:
        entries, cursor = ring.take(cursor)
        found += entries
    return found


def test_events_are_read_when_somebody_comes_to_them_and_once_for_all() -> None:
    ring, events = Ring(1023), Watched(event(number) for number in range(600))
    ring.put(seen(namer(), events))
    assert (ring.seen, len(ring), events.read) == (600, 600, [])
    assert ring.start_of_last(20) == 580 and events.read == []
    first, _cursor = ring.take(580)
    second, _cursor = ring.take(580)
    assert events.read == [(580, 600)]
    assert (
        first
        == second
        == [namer().names.flow(event(n), f.uuid) for n, f in zip(range(580, 600), first, strict=True)]
    )


def test_a_flow_is_the_same_however_often_it_is_read() -> None:
    ring, made = Ring(16383), namer()
    for start in range(0, 10_000, 500):
        ring.put(seen(made, EventList(event(number) for number in range(start, start + 500))))
    before = everything(ring)
    assert everything(ring) == before
    uuids = [entry.uuid for entry in before if isinstance(entry, Flow)]
    assert len(set(uuids)) == len(uuids) == 10_000


def test_old_events_keep_the_names_that_they_were_seen_with() -> None:
    ring, made = Ring(63), namer()
    ring.put(seen(made, EventList([event(1)])))
    made.names = Names(
        fleet({"shop1": HOSTS["web1"], **{n: row for n, row in HOSTS.items() if n != "web1"}}), "db1"
    )
    ring.put(seen(made, EventList([event(2)])))
    names = [entry.source.name for entry in everything(ring) if isinstance(entry, Flow)]
    assert names == ["web1", "shop1"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["seen", "flows", "lost", "names"]), st.integers(1, 40)), max_size=25),
    st.sampled_from([3, 15, 63]),
)
def test_stretches_of_every_kind_are_one_ring(steps: list[tuple[str, int]], capacity: int) -> None:
    """The same entries, by what was put in and by what a ring of flows that were read at once has."""
    ring, plain, made, number = Ring(capacity), Ring(capacity), namer(), 0
    for kind, count in steps:
        events = EventList(event(number + n) for n in range(count))
        if kind == "lost":
            gap = Lost(LostSource.KERNEL, count, TIME, TIME)
            ring.add([gap])
            plain.add([gap])
        elif kind == "names":
            made.names = Names(fleet(), "db1")
        else:
            number += count
            stretch = seen(made, events)
            plain.add(list(stretch.entries(0, count)))
            if kind == "seen":
                ring.put(stretch)
            else:
                ring.add(list(stretch.entries(0, count)))
    assert (len(ring), ring.seen, ring.end, ring.oldest) == (len(plain), plain.seen, plain.end, plain.oldest)
    assert everything(ring) == everything(plain)
    keeps = (None, lambda flow: flow.event.source_port % 3 == 0)
    for keep in keeps:
        for count in (0, 1, 5):
            for since, until in ((0, 0), (TIME + 20_000_000, 0), (0, TIME + 30_000_000)):
                wanted = start_of_last(everything(plain), plain.oldest, count, keep, since, until)
                assert ring.start_of_last(count, keep, since, until) == wanted
    assert sum(len(stretch) for stretch in ring._stretches) < capacity + 2 * LONGEST


def start_of_last(
    entries: list[Entry], oldest: int, count: int, keep: Callable[[Flow], bool] | None, since: int, until: int
) -> int:
    """By going through all of them, one by one."""
    start, found = oldest + len(entries), 0
    for place in range(len(entries) - 1, -1, -1):
        entry = entries[place]
        if isinstance(entry, Lost):
            if not count and entry.last_ns >= since:
                start = oldest + place
            continue
        stamp = entry.event.time_ns
        if stamp < since or (until and stamp > until) or (keep is not None and not keep(entry)):
            continue
        start, found = oldest + place, found + 1
        if found == count:
            break
    return start


def test_readers_of_a_ring_that_turns_get_what_they_were_promised() -> None:
    """Four readers, one writer: every flow that is not told as missed comes once, in its order."""
    ring, made, wrong = Ring(255), namer(), []

    def follow() -> None:
        cursor, got, missed = 0, [], 0
        while ring.wait(cursor, 30):
            entries, cursor = ring.take(cursor)
            for entry in entries:
                if isinstance(entry, Lost):
                    missed += entry.number
                else:
                    got.append(entry.event.time_ns)
        if got != sorted(set(got)) or len(got) + missed != 5_000:
            wrong.append((len(got), missed))

    readers = [threading.Thread(target=follow) for _ in range(4)]
    for reader in readers:
        reader.start()
    for start in range(0, 5_000, 10):
        ring.put(seen(made, EventList(event(number) for number in range(start, start + 10))))
    ring.close()
    for reader in readers:
        reader.join(60)
    assert wrong == []
