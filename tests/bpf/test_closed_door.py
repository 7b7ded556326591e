# SPDX-License-Identifier: Apache-2.0
"""Packets through the stand-in that closes a host while guard or firewall cannot be loaded."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest
from tests.bpf.harness import DROP, PASS, context, mark_of
from tests.bpf.packets import (
    ARP,
    ICMP,
    ICMP6,
    MORE,
    QINQ,
    VLAN,
    arp,
    destination,
    ethernet,
    fragment6,
    hop_by_hop,
    icmp,
    icmp6,
    ipv4,
    ipv6,
    other,
    sctp,
    udp,
)

from wardmesh.datapath import bpfsys
from wardmesh.datapath.closed_door import Doors, instructions
from wardmesh.datapath.contract import EGRESS, INGRESS, MARK

pytestmark = pytest.mark.netns

DOORS = Doors((51871, 51872), ((6, 22), (6, 2222), (17, 161), (132, 3868)))
ME, YOU, ME6, YOU6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
SYN, SYN_ACK, ACK, RST = 0x02, 0x12, 0x10, 0x04
Program = dict[tuple[int, bool], int]


@pytest.fixture(scope="module")
def door(privileged: None) -> Iterator[Program]:
    """The programs by direction and link layer, as the kernel's verifier takes them."""
    loaded = {
        (way, l2): bpfsys.prog_load(bpfsys.SCHED_CLS, "stand_in", instructions(way, l2, DOORS), "Apache-2.0")
        for way in (INGRESS, EGRESS)
        for l2 in (True, False)
    }
    yield loaded
    for fd in loaded.values():
        os.close(fd)


def tcp(source: int, dest: int, flags: int = ACK) -> tuple[int, bytes]:
    return 6, struct.pack("!HHIIBBHHH", source, dest, 1, 1, 0x50, flags, 1024, 0, 0)


def comes(inner: tuple[int, bytes]) -> tuple[bytes, bytes]:
    """From another host, over either family."""
    return ipv4(YOU, ME, inner), ipv6(YOU6, ME6, inner)


def goes(inner: tuple[int, bytes]) -> tuple[bytes, bytes]:
    """From this host."""
    return ipv4(ME, YOU, inner), ipv6(ME6, YOU6, inner)


# (what, direction, packet without a link layer, passes)
TABLE = [
    (what, way, packet, passes)
    for what, way, packets, passes in [
        ("SSH is asked for", INGRESS, comes(tcp(40000, 22, SYN)), True),
        ("SSH goes on", INGRESS, comes(tcp(40000, 22, ACK)), True),
        ("SSH answers", EGRESS, goes(tcp(22, 40000, SYN_ACK)), True),
        ("SSH is refused", EGRESS, goes(tcp(22, 40000, RST)), True),
        ("another failsafe port", INGRESS, comes(tcp(40000, 2222, SYN)), True),
        ("a failsafe port by UDP", INGRESS, comes(udp(40000, 161)), True),
        ("its answer", EGRESS, goes(udp(161, 40000)), True),
        ("a failsafe port by SCTP", INGRESS, comes(sctp(40000, 3868)), True),
        ("nothing is opened from the port of SSH", EGRESS, goes(tcp(22, 80, SYN)), False),
        ("SSH to somebody else", EGRESS, goes(tcp(40000, 22, SYN)), False),
        ("what says it were an answer of SSH", INGRESS, comes(tcp(22, 40000, ACK)), False),
        ("a port of SSH by the wrong protocol", INGRESS, comes(udp(40000, 22)), False),
        ("the web", INGRESS, comes(tcp(40000, 80, SYN)), False),
        ("to the web", EGRESS, goes(tcp(40000, 80, SYN)), False),
        ("an old connection's answer", EGRESS, goes(tcp(80, 40000, ACK)), False),
        ("DNS", EGRESS, goes(udp(40000, 53)), False),
        ("from the port of DNS to anything", INGRESS, comes(udp(53, 40000)), False),
        ("DHCP is asked for", EGRESS, (ipv4("0.0.0.0", "255.255.255.255", udp(68, 67)),), True),
        ("DHCP answers", INGRESS, (ipv4(YOU, "255.255.255.255", udp(67, 68)),), True),
        ("DHCPv6 is asked for", EGRESS, (ipv6("fe80::1", "ff02::1:2", udp(546, 547)),), True),
        ("DHCPv6 answers", INGRESS, (ipv6("fe80::2", "fe80::1", udp(547, 546)),), True),
        ("a DHCP server is asked", INGRESS, comes(udp(68, 67)), False),
        ("the tunnel's packet comes", INGRESS, comes(udp(40000, 51871)), True),
        ("that of the second tunnel", INGRESS, comes(udp(40000, 51872)), True),
        ("the tunnel's port without its mark", EGRESS, goes(udp(51871, 51871)), False),
        ("to the tunnel's port of another", EGRESS, goes(udp(40000, 51871)), False),
        ("a ping", INGRESS, (ipv4(YOU, ME, icmp(8)), ipv6(YOU6, ME6, icmp6(128))), False),
        ("to ping", EGRESS, (ipv4(ME, YOU, icmp(8)), ipv6(ME6, YOU6, icmp6(128))), False),
        ("fragmentation needed", INGRESS, (ipv4(YOU, ME, icmp(3, 4)),), True),
        ("packet too big", INGRESS, (ipv6(YOU6, ME6, icmp6(2)),), True),
        ("an ICMP redirect", INGRESS, (ipv4(YOU, ME, icmp(5)), ipv6(YOU6, ME6, icmp6(137))), False),
        ("ICMP of the other family", INGRESS, (ipv4(YOU, ME, (ICMP6, b"\x88" + bytes(7))),), False),
        ("and the other way round", INGRESS, (ipv6(YOU6, ME6, (ICMP, b"\x03" + bytes(7))),), False),
        *(
            (f"neighbour discovery, {kind}", way, (ipv6(YOU6, ME6, icmp6(kind), hop_limit=255),), True)
            for kind in (133, 134, 135, 136)
            for way in (INGRESS, EGRESS)
        ),
        ("MLD", EGRESS, (ipv6("fe80::1", "ff02::16", icmp6(143), extensions=(hop_by_hop(),)),), True),
        ("TCP after an alert", INGRESS, (ipv6(YOU6, ME6, tcp(9, 22), extensions=(hop_by_hop(),)),), False),
        ("SSH behind options", INGRESS, (ipv6(YOU6, ME6, tcp(9, 22), extensions=(destination(),)),), False),
        ("SSH behind IPv4's options", INGRESS, (ipv4(YOU, ME, tcp(9, 22), options=bytes(8)),), True),
        ("the web behind IPv4's options", INGRESS, (ipv4(YOU, ME, tcp(9, 80), options=bytes(8)),), False),
        ("a first fragment to SSH", INGRESS, (ipv4(YOU, ME, tcp(9, 22), fragment=MORE),), False),
        ("a later fragment", INGRESS, (ipv4(YOU, ME, tcp(9, 22), fragment=185),), False),
        ("a fragment of IPv6", INGRESS, (ipv6(YOU6, ME6, tcp(9, 22), extensions=(fragment6(0),)),), False),
        ("a protocol without ports", INGRESS, comes(other(47)), False),
        ("IPv4 in IPv4", INGRESS, (ipv4(YOU, ME, (4, ipv4(YOU, ME, tcp(9, 22)))),), False),
        ("TCP that ends too early", INGRESS, (ipv4(YOU, ME, (6, b"\x9c\x40\x00\x16")),), False),
    ]
    for packet in packets
]  # fmt: skip


@pytest.mark.parametrize(("what", "way", "packet", "passes"), TABLE, ids=lambda value: str(value)[:40])
def test_what_passes_and_what_does_not(
    door: Program, what: str, way: int, packet: bytes, passes: bool
) -> None:
    wanted = PASS if passes else DROP
    for tags in ((), (VLAN,), (QINQ, VLAN)):
        assert bpfsys.prog_test_run(door[way, True], ethernet(packet, *tags)).verdict == wanted, (what, tags)
    assert bpfsys.prog_test_run(door[way, False], packet).verdict == wanted, what


@pytest.mark.parametrize(
    ("frame", "passes"),
    [
        (arp(), True),
        (ethernet(b"")[:12] + struct.pack("!H", 0x888E) + bytes(46), True),  # 802.1X
        (ethernet(b"")[:12] + struct.pack("!H", 0x8809) + bytes(46), True),  # link aggregation
        (ethernet(ipv4(YOU, ME, tcp(9, 22)), QINQ, VLAN, VLAN), False),  # deeper than anybody reads
        (ethernet(b"")[:12] + struct.pack("!HHH", VLAN, 42, ARP) + bytes(28), True),
    ],
)
def test_frames_that_are_not_ip_pass(door: Program, frame: bytes, passes: bool) -> None:
    for way in (INGRESS, EGRESS):
        assert bpfsys.prog_test_run(door[way, True], frame).verdict == (PASS if passes else DROP)


def test_the_tunnels_packets_are_known_by_their_mark_and_get_it(door: Program) -> None:
    for packet in goes(udp(51871, 51871)):
        sent = bpfsys.prog_test_run(door[EGRESS, True], ethernet(packet), context(MARK | 0x42))
        assert (sent.verdict, mark_of(sent)) == (PASS, MARK | 0x42)
        bare = bpfsys.prog_test_run(door[EGRESS, True], ethernet(packet), context(0x4200))
        assert bare.verdict == DROP
    for packet in comes(udp(40000, 51871)):
        came = bpfsys.prog_test_run(door[INGRESS, True], ethernet(packet), context(0x420042))
        assert (came.verdict, mark_of(came)) == (PASS, 0x420042 & ~0xFF00 | MARK)
    (plain,) = (ipv4(YOU, ME, tcp(40000, 22)),)
    assert mark_of(bpfsys.prog_test_run(door[INGRESS, True], ethernet(plain), context(0x42))) == 0x42


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_is_made_up_opens_a_door(door: Program, seed: int) -> None:
    """Random ports and flags over IPv4 against the same rules in Python."""
    chance = random.Random(seed)
    ports = (22, 2222, 161, 80, 51871, 51872, 67, 68, 546, 547, 3868, 40000)
    for _packet in range(3000):
        source, dest = chance.choice(ports), chance.choice(ports)
        protocol, flags, way = chance.choice((6, 17, 132)), chance.randrange(64), chance.choice((1, 2))
        own = dest if way == INGRESS else source
        opens = protocol == 6 and way == EGRESS and flags & 0x12 == SYN
        wanted = (protocol, own) in DOORS.failsafe and not opens
        if protocol == 17:
            wanted |= way == INGRESS and dest in (51871, 51872, 68, 546)
            wanted |= way == EGRESS and dest in (67, 547) and source not in (51871, 51872)
        inner = {6: tcp(source, dest, flags), 17: udp(source, dest), 132: sctp(source, dest)}[protocol]
        run = bpfsys.prog_test_run(door[way, True], ethernet(ipv4(YOU, ME, inner)))
        assert (run.verdict == PASS) is wanted, (protocol, source, dest, flags, way)
