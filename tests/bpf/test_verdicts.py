# SPDX-License-Identifier: Apache-2.0
"""Packet in, verdict, mark and counter out: the guard's rules in plain words, on the real programs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.bpf.harness import (
    BEHIND4,
    BEHIND6,
    DROP,
    EXCEPTIONS,
    LISTEN_PORT,
    OWN_BEHIND4,
    OWN_BEHIND6,
    PASS,
    PLAIN4,
    PLAIN6,
    PLAIN_BEHIND4,
    SELF4,
    SELF6,
    STRANGER4,
    STRANGER6,
    STRICT4,
    STRICT6,
    Bench,
)
from tests.bpf.packets import (
    AH,
    ESP,
    MORE,
    QINQ,
    VLAN,
    arp,
    authentication,
    destination,
    ethernet,
    fragment6,
    hop_by_hop,
    icmp,
    icmp6,
    ipv4,
    ipv6,
    other,
    routing,
    sctp,
    tcp,
    udp,
)

from wardmesh.datapath.contract import (
    EGRESS,
    EXEMPT,
    FORWARDED,
    INGRESS,
    INVALID,
    MARK,
    PLAINTEXT,
    TUNNEL,
    UNENCRYPTED,
)

pytestmark = pytest.mark.netns

WG = udp(LISTEN_PORT, LISTEN_PORT)
WG_NAT = udp(33000, LISTEN_PORT)  # a peer behind NAT sends from any port
EXTENSIONS8 = (hop_by_hop(), *(destination() for _ in range(6)), routing())


@dataclass(frozen=True)
class Case:
    """One row: words, packet, what must come of it."""

    words: str
    packet: bytes
    verdict: int
    reason: int | None
    given: dict[str, Any] = field(default_factory=dict)


def out4(inner: tuple[int, bytes], dest: str = STRICT4, source: str = SELF4, **how: Any) -> bytes:
    return ipv4(source, dest, inner, **how)


def in4(inner: tuple[int, bytes], source: str = STRICT4, dest: str = SELF4, **how: Any) -> bytes:
    return ipv4(source, dest, inner, **how)


def out6(inner: tuple[int, bytes], dest: str = STRICT6, source: str = SELF6, **how: Any) -> bytes:
    return ipv6(source, dest, inner, **how)


def in6(inner: tuple[int, bytes], source: str = STRICT6, dest: str = SELF6, **how: Any) -> bytes:
    return ipv6(source, dest, inner, **how)


MARKED = {"mark": MARK}
ROUTED_HERE = {"came_in": 7}

WRONG_VERSION = ethernet(out4(tcp(22, 22)))[:14] + b"\x65" + out4(tcp(22, 22))[1:]

EGRESS_CASES = [
    Case("TCP to a strict member is dropped", out4(tcp()), DROP, UNENCRYPTED),
    Case("TCP to a strict member is dropped, IPv6", out6(tcp()), DROP, UNENCRYPTED),
    Case("UDP to a strict member is dropped", out4(udp()), DROP, UNENCRYPTED),
    Case("UDP to a strict member is dropped, IPv6", out6(udp()), DROP, UNENCRYPTED),
    Case("ping to a strict member is dropped", out4(icmp(8)), DROP, UNENCRYPTED),
    Case("ping to a strict member is dropped, IPv6", out6(icmp6(128)), DROP, UNENCRYPTED),
    Case("ESP to a strict member is dropped", out4(other(ESP)), DROP, UNENCRYPTED),
    Case("a tunnel of another kind (GRE) to a strict member is dropped", out4(other(47)), DROP, UNENCRYPTED),
    Case("an address in a strict member's subnet is strict", out4(tcp(), BEHIND4), DROP, UNENCRYPTED),
    Case("an address in a strict member's subnet is strict, IPv6", out6(tcp(), BEHIND6), DROP, UNENCRYPTED),
    Case("a host address goes before the subnet around it", out4(tcp(), PLAIN_BEHIND4), PASS, PLAINTEXT),
    Case("TCP to a member that is not strict passes, counted", out4(tcp(), PLAIN4), PASS, PLAINTEXT),
    Case("TCP to a member that is not strict passes, IPv6", out6(tcp(), PLAIN6), PASS, PLAINTEXT),
    Case("TCP to a stranger passes", out4(tcp(), STRANGER4), PASS, None),
    Case("TCP to a stranger passes, IPv6", out6(tcp(), STRANGER6), PASS, None),
    Case("to a group address passes", out4(udp(), "224.0.0.251"), PASS, None),
    Case("to an own address passes", out4(tcp(), SELF4), PASS, None),
    Case("WireGuard's packet passes", out4(WG), PASS, TUNNEL, MARKED),
    Case("WireGuard's packet passes, IPv6", out6(WG), PASS, TUNNEL, MARKED),
    Case("WireGuard's packet to a NATed endpoint passes", out4(udp(LISTEN_PORT, 1024)), PASS, TUNNEL, MARKED),
    Case("from WireGuard's port without the mark is dropped", out4(WG), DROP, UNENCRYPTED),
    Case("from WireGuard's port without the mark is dropped, IPv6", out6(WG), DROP, UNENCRYPTED),
    Case("with the mark from another port is dropped", out4(udp()), DROP, UNENCRYPTED, MARKED),
    Case("with the mark but TCP is dropped", out4(tcp(LISTEN_PORT)), DROP, UNENCRYPTED, MARKED),
    Case("the mark's other bits do not matter", out4(WG), PASS, TUNNEL, {"mark": 0xABCD1EEF}),
    Case("another mark is none", out4(WG), DROP, UNENCRYPTED, {"mark": 0x0E00}),
    Case("first fragment of WireGuard's packet passes", out4(WG, fragment=MORE), PASS, TUNNEL, MARKED),
    Case("later fragment of WireGuard's packet passes", out4(WG, fragment=20), PASS, TUNNEL, MARKED),
    Case("later fragment of other UDP is dropped", out4(udp(), fragment=20), DROP, UNENCRYPTED),
    Case("later fragment of TCP is dropped", out4(tcp(), fragment=20), DROP, UNENCRYPTED, MARKED),
    Case(
        "later fragment, IPv6, marked UDP passes", out6(WG, extensions=(fragment6(9),)), PASS, TUNNEL, MARKED
    ),
    Case(
        "later fragment, IPv6, unmarked UDP is dropped",
        out6(WG, extensions=(fragment6(9),)),
        DROP,
        UNENCRYPTED,
    ),
    Case(
        "later fragment, IPv6, of TCP is dropped", out6(tcp(), extensions=(fragment6(9),)), DROP, UNENCRYPTED
    ),
    Case("WireGuard's packet after IP options passes", out4(WG, options=bytes(8)), PASS, TUNNEL, MARKED),
    Case("TCP after IP options is dropped", out4(tcp(), options=bytes(40)), DROP, UNENCRYPTED),
    Case("fragmentation needed passes", out4(icmp(3, 4)), PASS, EXEMPT),
    Case("host unreachable is dropped", out4(icmp(3, 1)), DROP, UNENCRYPTED),
    Case("packet too big passes", out6(icmp6(2)), PASS, EXEMPT),
    Case("time exceeded is dropped, IPv6", out6(icmp6(3)), DROP, UNENCRYPTED),
    *(
        Case(f"neighbour discovery {kind} passes", out6(icmp6(kind), hop_limit=255), PASS, EXEMPT)
        for kind in range(133, 138)
    ),
    Case(
        "neighbour discovery from beyond the link is dropped",
        out6(icmp6(135), hop_limit=64),
        DROP,
        UNENCRYPTED,
    ),
    *(
        Case(f"multicast listener message {kind} passes", out6(icmp6(kind)), PASS, EXEMPT)
        for kind in (130, 131, 132, 143)
    ),
    Case("ICMPv6 type 138 is dropped", out6(icmp6(138), hop_limit=255), DROP, UNENCRYPTED),
    Case(
        "a listener report behind its router alert passes",
        out6(icmp6(143), extensions=(hop_by_hop(),)),
        PASS,
        EXEMPT,
    ),
    Case("ICMPv6 numbers do not exempt ICMP", out4(icmp(135)), DROP, UNENCRYPTED),
    Case("ICMP in IPv6 is not exempt", out6(icmp(3, 4)), DROP, UNENCRYPTED),
    Case("an exception by destination port passes", out4(tcp(40000, 22)), PASS, EXEMPT),
    Case("an exception by source port passes", out4(tcp(22, 40000)), PASS, EXEMPT),
    Case("an exception by port passes, IPv6", out6(udp(123, 123)), PASS, EXEMPT),
    Case("an exception of SCTP passes", out4(sctp(1, 2905)), PASS, EXEMPT),
    Case("an exception's port of another protocol is dropped", out4(udp(40000, 22)), DROP, UNENCRYPTED),
    Case("later fragment of an exception is dropped", out4(tcp(22, 22), fragment=3), DROP, UNENCRYPTED),
    Case("routed traffic of a stranger passes", out4(tcp(), source=STRANGER4), PASS, FORWARDED, ROUTED_HERE),
    Case(
        "routed traffic of a stranger passes, IPv6",
        out6(tcp(), source=STRANGER6),
        PASS,
        FORWARDED,
        ROUTED_HERE,
    ),
    Case(
        "routed traffic from another member passes", out4(tcp(), source=PLAIN4), PASS, FORWARDED, ROUTED_HERE
    ),
    Case("a container's packet behind our address is dropped", out4(tcp()), DROP, UNENCRYPTED, ROUTED_HERE),
    Case(
        "a packet of our own subnet is dropped",
        out4(tcp(), source=OWN_BEHIND4),
        DROP,
        UNENCRYPTED,
        ROUTED_HERE,
    ),
    Case(
        "a packet of our own subnet is dropped, IPv6",
        out6(tcp(), source=OWN_BEHIND6),
        DROP,
        UNENCRYPTED,
        ROUTED_HERE,
    ),
    Case("from an unregistered own address is dropped", out4(tcp(), source="172.31.0.5"), DROP, UNENCRYPTED),
    Case(
        "extension headers hide nothing",
        out6(tcp(), extensions=(hop_by_hop(), destination(2))),
        DROP,
        UNENCRYPTED,
    ),
    Case(
        "WireGuard's packet behind extension headers passes",
        out6(WG, extensions=(destination(1),)),
        PASS,
        TUNNEL,
        MARKED,
    ),
    Case("an AH header is walked", out6(tcp(9, 22), extensions=(authentication(),)), PASS, EXEMPT),
    Case("AH itself is dropped", out4(other(AH)), DROP, UNENCRYPTED),
    Case("eight extension headers are too many", out6(tcp(9, 22), extensions=EXTENSIONS8), DROP, INVALID),
    Case("seven are not", out6(tcp(9, 22), extensions=EXTENSIONS8[:7]), PASS, EXEMPT),
    Case("a header length below five words is dropped", out4(tcp(22, 22), first=0x44), DROP, INVALID),
    Case("the wrong version is dropped", WRONG_VERSION, DROP, INVALID, {"raw": True}),
    Case(
        "a broken packet to a member that is not strict passes",
        out4(tcp(), PLAIN4, first=0x44),
        PASS,
        PLAINTEXT,
    ),
]

INGRESS_CASES = [
    Case("TCP from a strict member is dropped", in4(tcp()), DROP, UNENCRYPTED),
    Case("TCP from a strict member is dropped, IPv6", in6(tcp()), DROP, UNENCRYPTED),
    Case("UDP from a strict member is dropped", in4(udp()), DROP, UNENCRYPTED),
    Case("ping from a strict member is dropped", in4(icmp(8)), DROP, UNENCRYPTED),
    Case("ping from a strict member is dropped, IPv6", in6(icmp6(128)), DROP, UNENCRYPTED),
    Case("from a strict member's subnet is dropped", in4(tcp(), BEHIND4), DROP, UNENCRYPTED),
    Case("from a strict member's subnet is dropped, IPv6", in6(tcp(), BEHIND6), DROP, UNENCRYPTED),
    Case("TCP from a member that is not strict passes, marked", in4(tcp(), PLAIN4), PASS, PLAINTEXT),
    Case("TCP from a member that is not strict passes, IPv6", in6(tcp(), PLAIN6), PASS, PLAINTEXT),
    Case("TCP from a stranger passes, unmarked", in4(tcp(), STRANGER4), PASS, None),
    Case("TCP from a stranger passes, IPv6", in6(tcp(), STRANGER6), PASS, None),
    Case("from an own address passes", in4(tcp(), SELF4), PASS, None),
    Case("to WireGuard's port passes", in4(WG), PASS, TUNNEL),
    Case("to WireGuard's port passes, IPv6", in6(WG), PASS, TUNNEL),
    Case("to WireGuard's port from any port passes", in4(WG_NAT), PASS, TUNNEL),
    Case("from WireGuard's port to another is dropped", in4(udp(LISTEN_PORT, 53)), DROP, UNENCRYPTED),
    Case("TCP to WireGuard's port number is dropped", in4(tcp(1, LISTEN_PORT)), DROP, UNENCRYPTED),
    Case("the tunnel's mark from outside does not help", in4(tcp()), DROP, UNENCRYPTED, MARKED),
    Case("a mark's other bits are kept", in4(WG), PASS, TUNNEL, {"mark": 0xABCD0044}),
    Case("first fragment to WireGuard's port passes", in4(WG, fragment=MORE), PASS, TUNNEL),
    Case("first fragment to another port is dropped", in4(udp(), fragment=MORE), DROP, UNENCRYPTED),
    Case("later fragment of UDP passes: alone it is nothing", in4(WG, fragment=20), PASS, TUNNEL),
    Case("later fragment of TCP is dropped", in4(tcp(), fragment=20), DROP, UNENCRYPTED),
    Case("later fragment of UDP passes, IPv6", in6(WG, extensions=(fragment6(9),)), PASS, TUNNEL),
    Case(
        "first fragment to another port is dropped, IPv6",
        in6(udp(), extensions=(fragment6(0),)),
        DROP,
        UNENCRYPTED,
    ),
    Case("fragmentation needed passes", in4(icmp(3, 4)), PASS, EXEMPT),
    Case("packet too big passes", in6(icmp6(2)), PASS, EXEMPT),
    *(
        Case(f"neighbour discovery {kind} passes", in6(icmp6(kind), hop_limit=255), PASS, EXEMPT)
        for kind in range(133, 138)
    ),
    Case(
        "neighbour discovery from beyond the link is dropped",
        in6(icmp6(136), hop_limit=254),
        DROP,
        UNENCRYPTED,
    ),
    Case("a multicast listener query passes", in6(icmp6(130), dest="ff02::1"), PASS, EXEMPT),
    Case("an exception by port passes", in4(tcp(40000, 22)), PASS, EXEMPT),
    Case("an exception's answer passes", in4(tcp(22, 40000)), PASS, EXEMPT),
    Case("to a multicast group passes", in4(udp(), dest="224.0.0.251"), PASS, EXEMPT),
    Case("to a multicast group passes, IPv6", in6(udp(), dest="ff02::fb"), PASS, EXEMPT),
    Case("to the limited broadcast passes", in4(udp(68, 67), dest="255.255.255.255"), PASS, EXEMPT),
    Case("a broken packet to a group is dropped", in4(udp(), dest="224.0.0.251", first=0x43), DROP, INVALID),
    Case("WireGuard's port behind options passes", in4(WG, options=bytes(12)), PASS, TUNNEL),
    Case(
        "TCP behind extension headers is dropped",
        in6(tcp(), extensions=(routing(), destination())),
        DROP,
        UNENCRYPTED,
    ),
    Case("eight extension headers are too many", in6(WG, extensions=EXTENSIONS8), DROP, INVALID),
    Case(
        "a broken packet from a member that is not strict passes",
        in4(tcp(), PLAIN4, first=0x41),
        PASS,
        PLAINTEXT,
    ),
]


def check(bench: Bench, direction: int, case: Case, frame: bytes, l2: bool) -> None:
    """Run a row and compare everything that is visible."""
    given = {key: value for key, value in case.given.items() if key != "raw"}
    outcome = bench.run(direction, frame, l2=l2, **given)
    before = given.get("mark", 0)
    marked = direction == INGRESS and case.verdict == PASS and case.reason is not None
    assert (outcome.verdict, outcome.reason) == (case.verdict, case.reason), case.words
    assert outcome.mark == ((before & ~0xFF00 | MARK) if marked else before), case.words
    if case.reason is not None:
        assert outcome.size == len(frame), case.words


def rows(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.words for case in cases])


@rows(EGRESS_CASES)
def test_egress(bench: Bench, case: Case) -> None:
    check(bench, EGRESS, case, case.packet if case.given.get("raw") else ethernet(case.packet), l2=True)


@rows(INGRESS_CASES)
def test_ingress(bench: Bench, case: Case) -> None:
    check(bench, INGRESS, case, ethernet(case.packet), l2=True)


@rows([case for case in EGRESS_CASES if not case.given.get("raw")])
def test_egress_of_a_device_without_link_layer(bench: Bench, case: Case) -> None:
    check(bench, EGRESS, case, case.packet, l2=False)


@rows(INGRESS_CASES)
def test_ingress_of_a_device_without_link_layer(bench: Bench, case: Case) -> None:
    check(bench, INGRESS, case, case.packet, l2=False)


@rows([case for case in EGRESS_CASES if not case.given.get("raw")])
@pytest.mark.parametrize("tags", [(VLAN,), (QINQ, VLAN)], ids=["one tag", "two tags"])
def test_egress_with_vlan_tags_in_the_packet(bench: Bench, case: Case, tags: tuple[int, ...]) -> None:
    check(bench, EGRESS, case, ethernet(case.packet, *tags), l2=True)


def test_headers_outside_the_linear_part_are_read(bench: Bench) -> None:
    """As drivers leave them that put whole packets into page fragments; test runs of Linux 6.19 can do it."""
    for case in INGRESS_CASES:
        frame = ethernet(case.packet)
        frame += bytes(max(0, 200 - len(frame)))
        try:
            result = bench.verdict(INGRESS, frame, linear=14, **case.given)
        except OSError:
            running = tuple(int(part) for part in os.uname().release.split(".")[:2])
            assert running < (6, 19), "from 6.19 on test runs can do it"
            return
        assert result.verdict == case.verdict, case.words


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_what_is_no_ip_passes_uncounted(bench: Bench, direction: int) -> None:
    for frame in (arp(), ethernet(b"")[:12] + b"\x88\xcc" + bytes(40), ethernet(b"")[:14]):
        outcome = bench.run(direction, frame)
        assert (outcome.verdict, outcome.reason) == (PASS, None)


def test_arp_of_a_member_is_marked_so_that_a_strict_reverse_path_check_answers_it(bench: Bench) -> None:
    for sender, mark in ((STRICT4, MARK), (PLAIN4, MARK), (BEHIND4, MARK), (STRANGER4, 0), (SELF4, 0)):
        outcome = bench.run(INGRESS, arp(sender))
        assert (outcome.verdict, outcome.reason, outcome.mark) == (PASS, None, mark), sender
    assert bench.run(EGRESS, arp(SELF4, STRICT4)).mark == 0
    assert bench.run(INGRESS, arp(STRICT4)[:30]).mark == 0


def test_three_vlan_tags_are_not_ip(bench: Bench) -> None:
    outcome = bench.run(EGRESS, ethernet(out4(tcp()), QINQ, VLAN, VLAN))
    assert (outcome.verdict, outcome.reason) == (PASS, None)


def test_exceptions_for_whole_protocols(bench: Bench) -> None:
    try:
        assert bench.guard.set_exceptions({(1, 0), (58, 0), (47, 0)})
        for packet in (out4(icmp(8)), out6(icmp6(128)), out4(other(47)), out4(other(47), fragment=9)):
            assert bench.run(EGRESS, ethernet(packet)).reason == EXEMPT
        assert bench.run(EGRESS, ethernet(out4(tcp(40000, 22)))).reason == UNENCRYPTED
        bench.guard.set_exceptions(())
        assert bench.run(EGRESS, ethernet(out4(icmp(8)))).reason == UNENCRYPTED
    finally:
        bench.guard.set_exceptions(EXCEPTIONS)
        assert bench.guard.set_exceptions(EXCEPTIONS) == []


def test_a_second_listen_port_while_keys_rotate(bench: Bench) -> None:
    second = ethernet(in4(udp(1, 51872)))
    assert bench.run(INGRESS, second).verdict == DROP
    bench.guard.set_listen_ports(LISTEN_PORT, 51872)
    assert bench.run(INGRESS, second).reason == TUNNEL
    assert bench.run(INGRESS, ethernet(in4(WG))).reason == TUNNEL
    bench.guard.set_listen_ports(LISTEN_PORT)
    assert bench.run(INGRESS, second).verdict == DROP


def test_port_zero_is_no_listen_port(bench: Bench) -> None:
    assert bench.run(INGRESS, ethernet(in4(udp(0, 0)))).verdict == DROP
    assert bench.run(EGRESS, ethernet(out4(udp(0, 0))), mark=MARK).verdict == DROP
