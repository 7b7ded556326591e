# SPDX-License-Identifier: Apache-2.0
"""The table of flows when it is small: who stays, who makes way, and what happens when nobody does."""

from __future__ import annotations

import ipaddress
import random
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.bpf.driver import SOURCE_MAC, SOURCE_PORT, Driver
from tests.bpf.fw_harness import (
    FRIEND4,
    FRIEND6,
    NOTHING,
    OPEN,
    POLICY,
    SELF4,
    SELF6,
    STRANGER4,
    STRANGER6,
    FirewallBench,
    Verdict,
    cells,
    loaded_firewall,
    tables,
)
from tests.bpf.harness import context
from tests.bpf.netns import Namespace
from tests.bpf.packets import udp
from tests.bpf.test_firewall import ACK, SYN, from_us, tcp, to_us

from wardmesh.datapath import bpfsys, firewall
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.datapath.flow_table import FlowTable, slots_taken

pytestmark = pytest.mark.netns

FLOWS_MAX = 64
SHORT = 6  # bits of a tag
ROOM = {4: 128, 6: 64}  # slots
NO_ROOM = ("CT: Map insertion failed",)
FRIENDS = {4: FRIEND4, 6: FRIEND6}
STRANGERS = {4: STRANGER4, 6: STRANGER6}
HALF_FULL = {4: FLOWS_MAX, 6: FLOWS_MAX // 2}


@pytest.fixture(scope="module", params=["long tags", "short tags"])
def loaded(
    privileged: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[FirewallBench]:
    """Programs with tables of 128 and 64 slots; short tags have three bits of the hash."""
    namespace, short = Namespace(), request.param == "short tags"
    with ExitStack() as held:
        held.callback(namespace.close)
        held.enter_context(namespace.entered())
        with pytest.MonkeyPatch.context() as patch:
            if short:
                flags = firewall._table_flags(FLOWS_MAX)
                patch.setattr(firewall, "_table_flags", lambda _most: (*flags, f"-DWM_TAG_BITS={SHORT}"))
            found = held.enter_context(loaded_firewall(tmp_path_factory.mktemp("small"), flows_max=FLOWS_MAX))
        found.tag_bits = SHORT if short else found.tag_bits
        yield found


@pytest.fixture
def small(loaded: FirewallBench) -> Iterator[FirewallBench]:
    """POLICY in force and no flow known; afterwards, whatever happened, each slot has one holder."""
    loaded.firewall.set_policy(POLICY)
    loaded.forget_flows()
    yield loaded
    for family in (4, 6):
        check_holders(loaded, family)


def check_holders(wall: FirewallBench, family: int) -> None:
    """Nobody is busy any more, each slot that was taken has one holder, and no flow lies in two of them."""
    with wall.memory(f"heads{family}") as memory:
        holds = [hold for head in fw.HEAD.iter_unpack(memory[:]) for hold in head[: fw.WAYS] if hold]
    taken = slots_taken(wall.firewall._map("taken"), family)
    assert all(hold & fw.TAG_SETTLED for hold in holds)
    assert sorted(hold >> wall.tag_bits for hold in holds) == list(range(taken))
    keys = [slot.key for slot in wall.slots(family)]
    assert len(keys) == taken
    named = [keys[hold >> wall.tag_bits] for hold in holds if hold & (1 << wall.tag_bits) - 4]
    assert len(set(named)) == len(named)


def opened(wall: FirewallBench, family: int, port: int) -> bool:
    return wall.passes(INGRESS, to_us(FRIENDS[family], tcp(port, 80)))


def answered(wall: FirewallBench, family: int, port: int) -> bool:
    """Opened, and answered."""
    reply = from_us(FRIENDS[family], tcp(80, port, SYN | ACK))
    return opened(wall, family, port) and wall.passes(EGRESS, reply)


def lives(wall: FirewallBench, family: int, port: int) -> bool:
    """Does an answer still pass which only a known flow lets pass?"""
    return wall.passes(EGRESS, from_us(FRIENDS[family], tcp(80, port, ACK)))


@pytest.fixture
def one_way(small: FirewallBench) -> FirewallBench:
    """The friends may open to us, and we to nobody: what we send passes only as an answer."""
    small.firewall.set_policy(
        tables({peer: cells(OPEN, NOTHING) for peer in FRIENDS.values()}, cells(NOTHING, NOTHING))
    )
    return small


@pytest.mark.parametrize("family", [4, 6])
def test_as_many_flows_as_promised_find_room(one_way: FirewallBench, family: int) -> None:
    ports = range(1, HALF_FULL[family] + 1)
    assert all(answered(one_way, family, port) for port in ports)
    assert all(lives(one_way, family, port) for port in ports)
    assert len(one_way.slots(family)) == len(ports)


@pytest.mark.parametrize("family", [4, 6])
def test_a_full_table_denies_and_displaces_nobody(one_way: FirewallBench, family: int) -> None:
    held = [port for port in range(1, 4 * ROOM[family]) if answered(one_way, family, port)]
    assert HALF_FULL[family] < len(held) <= ROOM[family]
    refused = next(port for port in range(1, 4 * ROOM[family]) if port not in held)
    frame = to_us(FRIENDS[family], tcp(refused, 80))
    assert one_way.run(INGRESS, frame) == Verdict(False, NO_ROOM)
    assert all(lives(one_way, family, port) for port in held)
    assert not lives(one_way, family, refused)


@pytest.mark.parametrize("family", [4, 6])
def test_a_flood_displaces_no_answered_flow(one_way: FirewallBench, family: int) -> None:
    kept = range(1, HALF_FULL[family] // 2)
    assert all(answered(one_way, family, port) for port in kept)
    assert all(opened(one_way, family, port) for port in range(1000, 1000 + 20 * ROOM[family]))
    assert all(lives(one_way, family, port) for port in kept)
    assert answered(one_way, family, 60_000) and lives(one_way, family, 60_000)
    for port in range(1000, 1000 + 5 * ROOM[family]):
        assert not one_way.passes(INGRESS, to_us(STRANGERS[family], tcp(port, 80)))
    strangers = ipaddress.ip_address(STRANGERS[family]).packed
    assert not any(slot.key.startswith(strangers) for slot in one_way.slots(family))


def _age(wall: FirewallBench, family: int, *, flows: bool, holds: bool) -> None:
    """Let the time of every flow be over, in its own entry, in what its set knows of it, or in both."""
    key, slot = (fw.FLOW4_KEY.size, fw.SLOT4_BYTES) if family == 4 else (fw.FLOW6_KEY.size, fw.SLOT6_BYTES)
    if holds:
        for way in range(fw.WAYS):
            _earlier(wall, f"heads{family}", fw.HEAD.size // 2 + 4 * way, fw.HEAD.size)
    if flows:
        _earlier(wall, f"flows{family}", key + fw.FLOW.size - 8, slot)


def _earlier(wall: FirewallBench, name: str, first: int, step: int) -> None:
    with wall.memory(name) as memory:
        for place in range(first, len(memory), step):
            (until,) = struct.unpack_from("=I", memory, place)
            struct.pack_into("=I", memory, place, (until - 20_000) & 0xFFFFFFFF if until else 0)


def _end(wall: FirewallBench, family: int, port: int) -> None:
    """Let the time of one flow be over; its set learns of it when it needs room."""
    size, slot = (fw.FLOW4_KEY.size, fw.SLOT4_BYTES) if family == 4 else (fw.FLOW6_KEY.size, fw.SLOT6_BYTES)
    ends = {
        fw.FLOW.unpack(found.flow)[10]: number * slot + size + fw.FLOW.size - 8
        for number, found in enumerate(wall.slots(family))
        if struct.pack(">H", port) == found.key[-8:-6]
    }
    with wall.memory(f"flows{family}") as memory:  # one that was over before may lie elsewhere
        struct.pack_into("=I", memory, ends[max(ends)], (max(ends) - 20_000) & 0xFFFFFFFF)


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_whose_time_is_over_makes_way(one_way: FirewallBench, family: int) -> None:
    held = [port for port in range(1, 4 * ROOM[family]) if answered(one_way, family, port)]
    _age(one_way, family, flows=True, holds=True)
    assert not any(lives(one_way, family, port) for port in held)
    fresh = range(2000, 2000 + HALF_FULL[family])
    assert all(answered(one_way, family, port) for port in fresh)
    assert all(lives(one_way, family, port) for port in fresh)


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_that_goes_on_keeps_its_slot(one_way: FirewallBench, family: int) -> None:
    """The time that the set knows is a lower bound; the flow's own counts."""
    held = [port for port in range(1, 4 * ROOM[family]) if answered(one_way, family, port)]
    _age(one_way, family, flows=False, holds=True)
    refused = [port for port in range(1, 4 * ROOM[family]) if port not in held]
    for port in refused:
        assert not opened(one_way, family, port)
    assert all(lives(one_way, family, port) for port in held)


@pytest.mark.parametrize("family", [4, 6])
def test_a_closed_connection_makes_way_soon(one_way: FirewallBench, family: int) -> None:
    """FIN shortens the time that the set knows, too, or a busy server would run out of room for hours."""
    assert answered(one_way, family, 7)
    assert one_way.passes(INGRESS, to_us(FRIENDS[family], tcp(7, 80, ACK | 1)))
    with one_way.memory(f"heads{family}") as memory:
        heads = list(fw.HEAD.iter_unpack(memory[:]))
    (until,) = (head[fw.WAYS + way] for head in heads for way in range(fw.WAYS) if head[way])
    (slot,) = one_way.slots(family)
    expires = fw.FLOW.unpack(slot.flow)[10]
    assert until == expires


@pytest.mark.parametrize("family", [4, 6])
def test_what_was_noted_is_found_again(one_way: FirewallBench, family: int) -> None:
    """Any order of openings, answers, floods and ends: who was answered lives until its time is over."""
    rng = random.Random(family)
    known: set[int] = set()
    for _step in range(1_000):
        port, chance = rng.randrange(1, 30), rng.random()
        if chance < 0.3:
            assert answered(one_way, family, port)
            known.add(port)
        elif chance < 0.5:
            assert opened(one_way, family, rng.randrange(1_000, 60_000))
        elif chance < 0.6 and known:
            port = rng.choice(sorted(known))
            _end(one_way, family, port)
            known.remove(port)
        else:
            assert lives(one_way, family, port) is (port in known)


@pytest.fixture
def tiny(privileged: None, tmp_path: Path) -> Iterator[FirewallBench]:
    """Programs with a table of sixteen slots."""
    namespace = Namespace()
    try:
        with namespace.entered(), loaded_firewall(tmp_path, flows_max=8) as found:
            yield found
    finally:
        namespace.close()


def test_two_processors_never_mix_two_flows(tiny: FirewallBench) -> None:
    """Both write into a table that is far too small; each slot must hold one flow, with its own verdict."""
    peers = ("fd07::1", "fd07::2")  # an IPv6 slot is two lines of the cache, so that a mixture lasts
    held = {peers[0]: cells(OPEN, OPEN), peers[1]: cells(OPEN, NOTHING)}
    tiny.firewall.set_policy(tables(held, cells(NOTHING, NOTHING)))
    rows = {str(net.network_address): found for net, found in tiny.firewall._peers().items()}
    namespace = Namespace()

    def flood(peer: str) -> None:
        driver = Driver(SOURCE_PORT[6])
        fd = driver.point(tiny.program(INGRESS))
        with namespace.entered():
            for _round in range(10):
                bpfsys.prog_test_run(fd, to_us(peer, udp(1, 53)), context(0, 0), 100_000)
        driver.close()

    threads = [threading.Thread(target=flood, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    seen: set[str] = set()
    with FlowTable(tiny.firewall._map("flows6"), 6, 16) as table:
        while any(thread.is_alive() for thread in threads):
            for slot in table.slots():
                remote, flow = str(ipaddress.ip_address(slot.key[:16])), fw.FLOW.unpack(slot.flow)
                assert (flow[8], flow[9]) == rows[remote]
                seen.add(remote)
    namespace.close()
    assert seen == set(peers)
    check_holders(tiny, 6)


@pytest.mark.parametrize("peer", [FRIEND4, FRIEND6])
def test_a_key_holds_who_and_what(one_way: FirewallBench, peer: str) -> None:
    """The layout that the command line reads is the one that is written."""
    family = 6 if ":" in peer else 4
    assert answered(one_way, family, 4660)
    (slot,) = one_way.slots(family)
    fields = (fw.FLOW6_KEY if family == 6 else fw.FLOW4_KEY).unpack(slot.key)
    own = SELF6 if family == 6 else SELF4
    assert fields == (
        ipaddress.ip_address(peer).packed,
        ipaddress.ip_address(own).packed,
        (4660).to_bytes(2, "big"),
        (80).to_bytes(2, "big"),
        6,
    )
    assert fw.FLOW.unpack(slot.flow)[11] & fw.FLOW_REPLIED


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_is_known_while_it_is_judged_again(small: FirewallBench, family: int) -> None:
    """Two processors carry a flow that we opened, whose answers pass as such; the policy changes often."""
    peer = FRIENDS[family]
    small.firewall.set_policy(tables({peer: cells(NOTHING, OPEN)}, cells(NOTHING, NOTHING)))
    frames = {EGRESS: from_us(peer, udp(4000, 53)), INGRESS: to_us(peer, udp(53, 4000))}
    assert small.passes(EGRESS, frames[EGRESS]) and small.passes(INGRESS, frames[INGRESS])
    before = small.firewall.counters()
    namespace = Namespace()

    def carry(direction: int, program: int) -> None:
        with namespace.entered():
            for _round in range(20):
                bpfsys.prog_test_run(program, frames[direction], context(0, 0), 50_000)

    # A change of policy before each packet: its generation, the first number of the state, counts on. The
    # lowest bit of it says which half of the tables is in force, and stays.
    changer = Driver(SOURCE_MAC, 2, small.firewall._map("state"))
    programs = {EGRESS: changer.point(small.program(EGRESS)), INGRESS: small.program(INGRESS)}
    threads = [threading.Thread(target=carry, args=item) for item in programs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    changer.close()
    namespace.close()
    assert small.firewall.counters() == before
