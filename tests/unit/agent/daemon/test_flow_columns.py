# SPDX-License-Identifier: Apache-2.0
"""Events by columns: every number is the one that reading each event alone would have given."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardmesh.daemon import raw_events
from wardmesh.daemon.flow_ages import OPEN_MAX, Ages, _marks
from wardmesh.daemon.flow_events import Sight
from wardmesh.daemon.flow_looks import Look
from wardmesh.daemon.flow_tally import joint, tally
from wardmesh.daemon.raw_events import Raw, column, constant, event_at, halves, length, longs, record, words
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath import ticks
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.datapath.event_ring import STRIDE
from wardmesh.observe.metrics_flows import FlowCounters, tally_of

SIGHT = Sight("h1", 300, 1_000, {2: "eth0", 3: "wardmesh_wg0"})
KINDS = (ev.EVENT_NEW, ev.EVENT_ANSWERED, ev.EVENT_CLOSING, ev.EVENT_DROP)
REASONS = {ev.EVENT_NEW: (66, 67, 68), ev.EVENT_DROP: (133, 157, 181, 195)}


def raw(**changes: Any) -> Raw:
    """A SYN from 10.0.0.2:4000 to 10.0.0.1:80, allowed on its way in, in slot 7."""
    made = Raw(
        time=5_000,
        source=socket.inet_aton("10.0.0.2") + bytes(12),
        dest=socket.inet_aton("10.0.0.1") + bytes(12),
        bytes_there=60,
        bytes_back=0,
        packets_there=1,
        packets_back=0,
        identity=301,
        row=2,
        generation=1,
        ifindex=2,
        place=7,
        sport=struct.pack("!H", 4000),
        dport=struct.pack("!H", 80),
        port_class=1,
        kind=ev.EVENT_NEW,
        reason=68,
        direction=INGRESS,
        opened=INGRESS,
        cell=fw.ALLOW,
        state=0,
        family=socket.AF_INET,
        protocol=6,
        tcp_flags=2,
        icmp_type=0,
        icmp_code=0,
    )
    return made._replace(**changes)


@st.composite
def raws(draw: st.DrawFn) -> Raw:
    kind = draw(st.sampled_from(KINDS))
    family = draw(st.sampled_from((socket.AF_INET, socket.AF_INET6)))
    size = 4 if family == socket.AF_INET else 16
    return raw(
        kind=kind,
        family=family,
        time=draw(st.integers(1, 1 << 60)),
        source=draw(st.binary(min_size=size, max_size=size)).ljust(16, b"\0"),
        dest=draw(st.binary(min_size=size, max_size=size)).ljust(16, b"\0"),
        reason=draw(st.sampled_from(REASONS.get(kind, (0,)))),
        direction=draw(st.sampled_from((INGRESS, EGRESS))),
        opened=draw(st.sampled_from((INGRESS, EGRESS))),
        protocol=draw(st.sampled_from((1, 6, 17, 47, 58, 132))),
        tcp_flags=draw(st.integers(0, 255)),
        icmp_type=draw(st.integers(0, 255)),
        dport=draw(st.one_of(st.sampled_from((b"\0\x50", b"\0\0")), st.binary(min_size=2, max_size=2))),
        sport=draw(st.binary(min_size=2, max_size=2)),
        place=draw(st.integers(0, 15)),
        ifindex=draw(st.sampled_from((2, 3, 1 << 20))),
    )


def lying(events: list[Raw]) -> bytes:
    return b"".join(map(record, events))


@given(st.lists(raws(), max_size=12))
def test_columns_are_the_fields_of_the_events(events: list[Raw]) -> None:
    data = lying(events)
    assert length(data) == len(events)
    assert [event_at(data, number) for number in range(len(events))] == events
    for name in ("kind", "family", "protocol", "tcp_flags", "icmp_type", "direction", "opened", "reason"):
        assert list(column(data, name)) == [getattr(event, name) for event in events]
    for name in ("place", "ifindex", "generation"):
        assert words(data, name).tolist() == [getattr(event, name) for event in events]
    assert longs(data, "time").tolist() == [event.time for event in events]
    ports = [socket.ntohs(port) for port in halves(data, "dport")]
    assert ports == [int.from_bytes(event.dport, "big") for event in events]


@pytest.mark.parametrize(("numbers", "found"), [([], None), ([5], 5), ([5, 5, 5], 5), ([5, 5, 261], None)])
def test_a_column_of_one_number(numbers: list[int], found: int | None) -> None:
    assert constant(memoryview(struct.pack(f"={len(numbers)}I", *numbers)).cast("I")) == found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=400)
)
def test_values_beside_one_another_are_counted(rows: list[tuple[int, int, int]]) -> None:
    assert joint([bytes(values) for values in zip(*rows, strict=True)]) == Counter(rows)


def test_more_pairs_than_a_byte_has_numbers_are_counted_too() -> None:
    rows = [(one, other) for one in range(100) for other in range(100)]
    assert joint([bytes(values) for values in zip(*rows, strict=True)]) == Counter(rows)


@settings(max_examples=300, deadline=None)
@given(st.lists(raws(), max_size=60))
def test_metrics_by_columns_are_those_of_the_events(events: list[Raw]) -> None:
    found, wanted = FlowCounters(), FlowCounters()
    found.add(tally(lying(events)))
    wanted.add(tally_of([SIGHT.event(event, 0) for event in events]))
    assert found.totals() == wanted.totals()


def test_a_thousand_ports_of_three_protocols() -> None:
    events = [
        raw(
            dport=struct.pack("!H", port),
            protocol=(6, 17, 132)[port % 3],
            kind=KINDS[port % 7 % 4],
            reason=68,
        )
        for port in range(1_000)
    ]
    assert tally(lying(events)).ports == tally_of([SIGHT.event(event, 0) for event in events]).ports


# --- when flows began ---


class Table:
    """Flows by family and slot: key and seconds left, or nothing."""

    def __init__(self) -> None:
        self.left: dict[tuple[int, int], int] = {}
        self.asked: list[tuple[int, int, bytes]] = []

    def at(self, family: int, place: int, key: bytes) -> bytes | None:
        self.asked.append((family, place, key))
        left = self.left.get((family, place))
        if left is None:
            return None
        expires = (ticks.now() + left) % (1 << 32)
        return fw.FLOW.pack(1, 1, fw.ALLOW, INGRESS, 700, 800, 7, 8, 301, 2, expires, fw.FLOW_REPLIED)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def ages(table: Table) -> Ages:
    return Ages({4: 64, 6: 64}, table.at, 61.0)


def answer(**changes: Any) -> Raw:
    """What comes back on the flow of raw()."""
    first = raw()
    return raw(
        kind=ev.EVENT_ANSWERED,
        source=first.dest,
        dest=first.source,
        sport=first.dport,
        dport=first.sport,
        direction=EGRESS,
        time=9_000,
        **changes,
    )


def test_later_packets_know_when_their_flow_began(ages: Ages) -> None:
    closing = raw(kind=ev.EVENT_CLOSING, time=12_000)
    assert ages.note(lying([raw(), answer()]), 10.0) == {1: 5_000}
    assert ages.note(lying([closing, closing]), 11.0) == {0: 5_000}  # it has ended with the first one


def test_a_packet_of_another_flow_in_the_slot_does_not(ages: Ages) -> None:
    other = raw(kind=ev.EVENT_CLOSING, sport=struct.pack("!H", 4001))
    assert ages.note(lying([raw(), other, answer()]), 10.0) == {}


def test_the_families_have_slots_of_their_own(ages: Ages) -> None:
    other = raw(kind=ev.EVENT_CLOSING, family=socket.AF_INET6)
    assert ages.note(lying([raw(), other]), 10.0) == {}


@given(st.lists(raws(), min_size=1, max_size=8))
def test_a_mark_is_that_of_both_directions(events: list[Raw]) -> None:
    back = [
        event._replace(source=event.dest, dest=event.source, sport=event.dport, dport=event.sport)
        for event in events
    ]
    marks = _marks(lying(events)).tolist()
    assert marks == _marks(lying(back)).tolist()
    assert marks == [_marks(lying([event]))[0] for event in events]


def test_a_flow_without_a_farewell_ends_with_its_time(ages: Ages, table: Table) -> None:
    ages.note(lying([raw()]), 100.0)
    assert list(ages.over(160.0)) == [] and table.asked == []
    table.left[4, 7] = 600
    assert list(ages.over(161.0)) == []
    family, place, key = table.asked.pop()
    assert (family, place) == (4, 7)
    remote, local, rport, lport, protocol = fw.FLOW4_KEY.unpack(key)
    assert (remote, local) == (socket.inet_aton("10.0.0.2"), socket.inet_aton("10.0.0.1"))
    assert (rport, lport, protocol) == (struct.pack("!H", 4000), struct.pack("!H", 80), 6)
    assert list(ages.over(700.0)) == [] and table.asked == []  # its time was not over when it was looked at
    table.left[4, 7] = -5
    ((data, begin),) = list(ages.over(800.0))
    ended = event_at(data, 0)
    assert begin == 5_000
    assert (ended.kind, ended.tcp_flags, ended.sport) == (ev.EVENT_CLOSING, 0, raw().sport)
    assert (ended.bytes_there, ended.bytes_back, ended.packets_there, ended.packets_back) == (700, 800, 7, 8)
    assert list(ages.over(10_000.0)) == []


def test_a_flow_whose_slot_another_took_ends_without_figures(ages: Ages) -> None:
    ages.note(lying([raw()]), 100.0)
    ((data, begin),) = list(ages.over(161.0))
    ended = event_at(data, 0)
    assert (begin, ended.bytes_there, ended.packets_there) == (5_000, 0, 0)


def test_a_flow_that_said_farewell_is_not_told_again(ages: Ages, table: Table) -> None:
    ages.note(lying([raw(), raw(kind=ev.EVENT_CLOSING)]), 100.0)
    assert list(ages.over(161.0)) == [] and table.asked == []


def test_in_a_flood_some_are_not_followed_and_none_is_told_twice(ages: Ages, table: Table) -> None:
    ages.note(lying([raw(time=4_000)]), 100.0)
    flood = lying([raw(place=8, time=5_000 + number) for number in range(20_000)])
    ages.note(flood + lying([raw(kind=ev.EVENT_CLOSING, time=90_000)]), 100.0)
    table.left[4, 8] = 100
    # Slot 7 has another flow now; whether the first one said farewell is not known.
    assert list(ages.over(161.0)) == []
    assert (4, 7) in [asked[:2] for asked in table.asked]


def test_so_many_ends_are_waited_for(ages: Ages) -> None:
    batch = lying([raw(place=number % 64, time=number + 1) for number in range(16_384)])
    for second in range(20):
        ages.note(batch, 10.0 * second)
    assert ages._held == OPEN_MAX
    assert sum(len(data) for _when, data in ages._young) == OPEN_MAX * STRIDE


# --- looks ---


def test_a_look_is_read_in_the_order_of_time(ages: Ages) -> None:
    events = [answer(), raw(), raw(kind=ev.EVENT_CLOSING, time=12_000, sport=b"\0\1")]
    look = Look(lying(events), SIGHT, {0: 5_000})
    assert look.stamps(0, 3) == [6_000, 10_000, 13_000]
    opened, answered, closed = look.between(0, 3)
    assert [event.time_ns for event in (opened, answered, closed)] == [6_000, 10_000, 13_000]
    assert answered.traffic is not None and answered.traffic.duration_ns == 4_000
    assert closed.traffic is not None and closed.traffic.duration_ns == 0
    assert look.between(1, 2) == [answered]


def test_looks_with_the_same_eyes_become_one() -> None:
    one = Look(lying([raw(time=7), raw(time=6)]), SIGHT, {})
    assert one.stamps(0, 2) == [1_006, 1_007]
    two = Look(lying([answer(), raw(time=3)]), SIGHT, {0: 5_000})
    assert one.take_in(two) and len(one) == 4
    # A look is put in order by itself: what was read before stays where it is.
    assert one.stamps(0, 4) == [1_006, 1_007, 1_003, 10_000]
    assert one.between(3, 4) == [SIGHT.event(answer(), 5_000)]
    assert not one.take_in(Look(lying([raw()]), replace(SIGHT, revision=2), {}))


def test_a_look_may_be_read_while_it_grows() -> None:
    """Whatever a reader was promised is there, and stays the same."""
    look, wrong = Look(lying([raw(time=1)]), SIGHT, {}), []

    def read() -> None:
        while len(look) < 2_000:
            count = len(look)
            if look.stamps(0, count) != list(range(1_001, 1_001 + count)):
                wrong.append(count)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 2_000, 2):
        look.take_in(Look(lying([raw(time=number + 2), raw(time=number + 1)]), SIGHT, {}))
    look.take_in(Look(lying([raw(time=2_002)]), SIGHT, {}))
    for reader in readers:
        reader.join(60)
    assert wrong == [] and len(look) >= 2_000


def test_every_event_of_the_contract_has_a_place() -> None:
    assert set(raw_events._PLACES) == set(Raw._fields)
    assert ev.EVENT.unpack(record(raw())[8 : 8 + ev.EVENT.size]) == tuple(raw())
