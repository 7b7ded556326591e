# SPDX-License-Identifier: Apache-2.0
"""What the observer learns of packets: exactly the events of a flow's life, and nothing is lost silently."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.bpf.driver import SOURCE_PORT, Driver
from tests.bpf.fw_harness import (
    FOE4,
    FRIEND4,
    FRIEND6,
    SELF4,
    SELF6,
    STRANGER4,
    FirewallBench,
)
from tests.bpf.harness import context
from tests.bpf.packets import udp
from tests.bpf.test_firewall import ACK, FIN, SYN, echo, from_us, tcp, to_us

from wardmesh.datapath import bpfsys
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.datapath.event_ring import EventRing, watch

pytestmark = pytest.mark.netns


class Told(NamedTuple):
    """An event, the fields that the tables compare."""

    kind: int
    reason: str
    source: str
    dest: str
    ports: tuple[int, int]
    direction: int
    opened: int
    tcp_flags: int
    packets: tuple[int, int]


class Observer:
    """Reads the ring of a loaded firewall."""

    def __init__(self, wall: FirewallBench) -> None:
        self._wall = wall
        self.ring = EventRing(wall.firewall._map("events"), fw.EVENTS_BYTES)
        self.listen()

    def listen(self, **options: int) -> None:
        """Ask for events and forget the old ones."""
        watch(self._wall.firewall._map("watch"), told=True, **options)
        while self.ring.read(1 << 16):
            pass

    def raw(self) -> list[tuple[object, ...]]:
        """Every event that waits."""
        return [ev.EVENT.unpack(data) for data in self.ring.read(1 << 20)]

    def told(self) -> list[Told]:
        """Every event that waits, to be compared."""
        return [_told(data) for data in self.ring.read(1 << 20)]

    def counted(self, reason: str) -> int:
        """Packets of this reason, both directions."""
        return sum(
            row.packets for (name, _way), row in self._wall.firewall.counters().items() if name == reason
        )


def _told(data: bytes) -> Told:
    fields = ev.EVENT.unpack(data)
    family = fields[21]
    ends = [str(ipaddress.ip_address(raw[:4] if family == 2 else raw)) for raw in fields[1:3]]
    ports = int.from_bytes(fields[12], "big"), int.from_bytes(fields[13], "big")
    return Told(
        fields[15],
        fw.REASONS.get(fields[16], ""),
        *ends,
        ports,
        fields[17],
        fields[18],
        fields[23],
        fields[5:7],
    )


@pytest.fixture
def observer(wall: FirewallBench) -> Iterator[Observer]:
    """One that is told of everything."""
    found = Observer(wall)
    yield found
    watch(wall.firewall._map("watch"), told=False)
    found.ring.close()


NEW, ANSWERED, CLOSING, DROPPED = ev.EVENT_NEW, ev.EVENT_ANSWERED, ev.EVENT_CLOSING, ev.EVENT_DROP


@pytest.mark.parametrize(("peer", "own"), [(FRIEND4, SELF4), (FRIEND6, SELF6)])
def test_the_life_of_a_connection(wall: FirewallBench, observer: Observer, peer: str, own: str) -> None:
    there, back = (peer, own, (4000, 80), INGRESS, INGRESS), (own, peer, (80, 4000), EGRESS, INGRESS)
    assert wall.passes(INGRESS, to_us(peer, tcp(4000, 80)))
    assert wall.passes(EGRESS, from_us(peer, tcp(80, 4000, SYN | ACK)))
    for _more in range(5):
        assert wall.passes(INGRESS, to_us(peer, tcp(4000, 80, ACK)))
        assert wall.passes(EGRESS, from_us(peer, tcp(80, 4000, ACK)))
    assert wall.passes(INGRESS, to_us(peer, tcp(4000, 80, FIN | ACK)))
    assert wall.passes(EGRESS, from_us(peer, tcp(80, 4000, FIN | ACK)))
    assert observer.told() == [
        Told(NEW, "Allowed", *there, SYN, (1, 0)),
        Told(ANSWERED, "Forwarded", *back, SYN | ACK, (1, 1)),
        Told(CLOSING, "Forwarded", *there, FIN | ACK, (7, 6)),
    ]


def test_what_is_dropped_is_told_with_its_reason(wall: FirewallBench, observer: Observer) -> None:
    cases = [
        (INGRESS, to_us(STRANGER4, tcp(1, 80)), "Policy denied", STRANGER4, SELF4, (1, 80)),
        (EGRESS, from_us(FOE4, tcp(2, 80)), "Policy denied by denylist", SELF4, FOE4, (2, 80)),
        (INGRESS, to_us(STRANGER4, udp(3, 53)), "Policy denied", STRANGER4, SELF4, (3, 53)),
        (INGRESS, to_us(STRANGER4, tcp(4, 80, ACK)), "Policy denied", STRANGER4, SELF4, (4, 80)),
        (INGRESS, to_us(FRIEND4, udp(5, 53), fragment=10), "Fragmented packet", FRIEND4, SELF4, (0, 0)),
    ]
    for way, frame, *_rest in cases:
        assert not wall.passes(way, frame)
    told = [(one.kind, one.direction, one.reason, one.source, one.dest, one.ports) for one in observer.told()]
    assert told == [(DROPPED, way, *rest) for way, _frame, *rest in cases]


def test_who_decided_is_told(wall: FirewallBench, observer: Observer) -> None:
    """Identity, row, class and generation: enough to name the rule."""
    assert wall.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80)))
    assert not wall.passes(INGRESS, to_us(FOE4, tcp(4000, 80)))
    peers = {str(net): found for net, found in wall.firewall._peers().items()}
    for fields, peer, cell in zip(observer.raw(), (FRIEND4, FOE4), (fw.ALLOW, fw.DENY), strict=True):
        assert fields[7:10] == (*peers[f"{peer}/32"], wall.firewall.generation)
        assert (fields[14], fields[19]) == (1, cell)  # TCP 80 is class 1 of the harness' policy


def test_echoes_and_audit(wall: FirewallBench, observer: Observer) -> None:
    assert wall.passes(INGRESS, to_us(FRIEND4, echo(8)))
    wall.firewall.set_audit(True)
    assert wall.passes(INGRESS, to_us(STRANGER4, tcp(9, 80)))
    (ping, audited) = observer.raw()
    assert (ping[15], ping[22], ping[24], ping[25]) == (NEW, 1, 8, 0)
    assert (audited[15], fw.REASONS[int(str(audited[16]))]) == (NEW, "Audited")


def test_the_place_is_where_the_flow_lies(wall: FirewallBench, observer: Observer) -> None:
    for port in range(4000, 4050):
        assert wall.passes(INGRESS, to_us(FRIEND4, tcp(port, 80)))
    with wall.memory("flows4") as table:
        for fields in observer.raw():
            start = int(str(fields[11])) * fw.SLOT4_BYTES
            key = fw.FLOW4_KEY.unpack(table[start : start + fw.FLOW4_KEY.size])
            assert key[2:4] == (fields[12], fields[13])


def test_nobody_is_told_before_somebody_asks(wall: FirewallBench, observer: Observer) -> None:
    watch(wall.firewall._map("watch"), told=False)
    assert wall.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80)))
    assert not wall.passes(INGRESS, to_us(FOE4, tcp(4000, 80)))
    assert observer.told() == []


def test_a_full_ring_is_counted_and_changes_no_verdict(wall: FirewallBench, observer: Observer) -> None:
    driver = Driver(SOURCE_PORT[4])
    room = fw.EVENTS_BYTES // (ev.EVENT.size + 8)
    observer.listen(drops=1 << 30)
    before = observer.counted("Event lost")
    fd = driver.point(wall.program(INGRESS))
    bpfsys.prog_test_run(fd, to_us(STRANGER4, tcp(1, 80)), context(0, 0), room + 5_000)
    assert observer.counted("Event lost") - before in range(4_990, 5_011)
    assert not wall.passes(INGRESS, to_us(STRANGER4, tcp(1, 80)))
    assert wall.passes(INGRESS, to_us(FRIEND4, tcp(1, 80)))
    assert len(observer.told()) == pytest.approx(room, abs=10)
    assert not wall.passes(INGRESS, to_us(STRANGER4, tcp(7, 80)))
    assert [one.ports for one in observer.told()] == [(7, 80)]
    driver.close()


def test_drops_beyond_the_rate_are_counted(wall: FirewallBench, observer: Observer) -> None:
    observer.listen(drops=10)
    before, sent, told = observer.counted("Event withheld"), 0, 0
    while not told:  # the tick of the test before may have had its share
        for port in range(1, 201):
            assert not wall.passes(INGRESS, to_us(STRANGER4, tcp(port, 80)))
        sent += 200
        told += len(observer.told())
    assert told < 100 and told + observer.counted("Event withheld") - before == sent


@pytest.mark.parametrize("sample", [2, 10])
def test_a_sample_of_flows_is_told_whole_or_not_at_all(
    wall: FirewallBench, observer: Observer, sample: int
) -> None:
    observer.listen(sample=sample)
    for port in range(1, 1001):
        assert wall.passes(INGRESS, to_us(FRIEND4, tcp(port, 80)))
        assert wall.passes(EGRESS, from_us(FRIEND4, tcp(80, port, SYN | ACK)))
    told = observer.told()
    opened = {one.ports[0] for one in told if one.kind == NEW}
    assert {one.ports[1] for one in told if one.kind == ANSWERED} == opened
    assert 500 / sample < len(opened) < 2000 / sample
