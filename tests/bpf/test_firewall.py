# SPDX-License-Identifier: Apache-2.0
"""Packets through the firewall's real programs: what passes, what does not, and why."""

from __future__ import annotations

import struct

import pytest
from tests.bpf.fw_harness import (
    AUDITED,
    BOTH,
    CLASSES,
    FAILSAFE,
    FOE4,
    FOE6,
    FORBIDDEN,
    FRIEND4,
    FRIEND6,
    NET4,
    NET6,
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
    tables,
)
from tests.bpf.harness import LISTEN_PORT, network
from tests.bpf.packets import (
    ICMP,
    ICMP6,
    MORE,
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

from wardmesh.datapath.contract import EGRESS, INGRESS, MARK
from wardmesh.datapath.fw_tables import Peer, PolicyTables
from wardmesh.model.errors import WardmeshError

SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04
POLICY_DENIED, DENYLIST = ("Policy denied",), ("Policy denied by denylist",)
ALLOWED = ("Allowed",)


def tcp(source: int, dest: int, flags: int = SYN) -> tuple[int, bytes]:
    """A segment with these flags."""
    return 6, struct.pack("!HHIIBBHHH", source, dest, 1, 1, 0x50, flags, 1024, 0, 0)


def echo(kind: int, number: int = 7) -> tuple[int, bytes]:
    """An echo request or reply of either family."""
    return (ICMP6 if kind >= 128 else ICMP), struct.pack("!BBHHH", kind, 0, 0, number, 1) + bytes(16)


def to_us(peer: str, inner: tuple[int, bytes], **options: object) -> bytes:
    """A frame from a peer to this host."""
    if ":" in peer:
        return ethernet(ipv6(peer, SELF6, inner, **options))  # type: ignore[arg-type]
    return ethernet(ipv4(peer, SELF4, inner, **options))  # type: ignore[arg-type]


def from_us(peer: str, inner: tuple[int, bytes], **options: object) -> bytes:
    """A frame from this host to a peer."""
    if ":" in peer:
        return ethernet(ipv6(SELF6, peer, inner, **options))  # type: ignore[arg-type]
    return ethernet(ipv4(SELF4, peer, inner, **options))  # type: ignore[arg-type]


# peer, what it sends, does it pass, what is counted
NEW_FLOWS = [
    (FRIEND4, tcp(4000, 80), True, ALLOWED),
    (FRIEND6, tcp(4000, 80), True, ALLOWED),
    (FRIEND4, tcp(4000, 81), False, POLICY_DENIED),
    (FRIEND6, tcp(4000, 81), False, POLICY_DENIED),
    (FRIEND4, tcp(4000, 999), False, POLICY_DENIED),
    (FRIEND4, tcp(4000, 1000), True, ALLOWED),
    (FRIEND4, tcp(4000, 2000), True, ALLOWED),
    (FRIEND4, tcp(4000, 2001), False, POLICY_DENIED),
    (FRIEND4, udp(4000, 53), True, ALLOWED),
    (FRIEND4, udp(4000, 80), False, POLICY_DENIED),
    (FRIEND4, sctp(4000, 3868), True, ALLOWED),
    (FRIEND4, sctp(4000, 3869), False, POLICY_DENIED),
    (FRIEND4, echo(8), True, ALLOWED),
    (FRIEND6, echo(128), True, ALLOWED),
    (STRANGER4, echo(8), False, POLICY_DENIED),
    (STRANGER6, echo(128), False, POLICY_DENIED),
    (FRIEND4, icmp(13), False, POLICY_DENIED),
    (FRIEND4, other(47), False, POLICY_DENIED),
    (FOE4, tcp(4000, 80), False, DENYLIST),
    (FOE6, udp(4000, 53), False, DENYLIST),
    (STRANGER4, tcp(4000, 80), False, POLICY_DENIED),
    (STRANGER6, tcp(4000, 80), False, POLICY_DENIED),
]


@pytest.mark.parametrize(("peer", "inner", "passes", "reasons"), NEW_FLOWS)
@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_a_new_flow(
    wall: FirewallBench,
    direction: int,
    peer: str,
    inner: tuple[int, bytes],
    passes: bool,
    reasons: tuple[str, ...],
) -> None:
    frame = to_us if direction == INGRESS else from_us
    assert wall.run(direction, frame(peer, inner)) == Verdict(passes, reasons)


def test_a_prefix_counts_where_no_address_is_named(wall: FirewallBench) -> None:
    for peer in (NET4, NET6):
        assert wall.passes(INGRESS, to_us(peer, tcp(1, 80)))
        assert not wall.passes(EGRESS, from_us(peer, tcp(1, 80)))


def test_the_failsafe_comes_before_policy(wall: FirewallBench) -> None:
    for peer in (STRANGER4, FOE4, STRANGER6):
        assert wall.run(INGRESS, to_us(peer, tcp(5000, 22))).reasons == ("Failsafe",)
        assert wall.passes(EGRESS, from_us(peer, tcp(22, 5000, SYN | ACK)))
        assert not wall.passes(EGRESS, from_us(peer, tcp(5000, 22)))
        assert wall.passes(EGRESS, from_us(peer, udp(5000, 123)))
        assert not wall.passes(INGRESS, to_us(peer, udp(5000, 123)))


def test_no_other_port_is_taken_for_one_of_the_failsafe(wall: FirewallBench) -> None:
    """Those that share a bit of its summary, and their neighbours."""
    for port in (21, 23, 22 + 64, 22 + 128, 22 + 1024 * 40, 22 << 8):
        assert not wall.passes(INGRESS, to_us(STRANGER4, tcp(5000, port)))
        assert not wall.passes(INGRESS, to_us(STRANGER4, udp(5000, port)))


@pytest.mark.parametrize(
    ("identity", "member"),
    [(6, False), (255, False), (256, True), (1000, True), (0xFFFFFF, True), (1 << 24, False)],
)
def test_some_of_the_failsafe_is_for_members(wall: FirewallBench, identity: int, member: bool) -> None:
    """Neither strangers nor prefixes that a policy names are members, though they have identities, too."""
    held = {network(text): Peer(identity, cells(FORBIDDEN, NOTHING)) for text in (FRIEND4, FRIEND6)}
    closed = cells(NOTHING, NOTHING)
    wall.firewall.set_policy(PolicyTables(CLASSES, held, closed, closed, True))
    checks = {(INGRESS, 6, 4240), (EGRESS, 6, 4240)}
    wall.firewall.set_failsafe(FAILSAFE, checks)
    try:
        for peer in (FRIEND4, FRIEND6):
            assert wall.passes(INGRESS, to_us(peer, tcp(5000, 4240))) is member
            assert wall.passes(EGRESS, from_us(peer, tcp(5001, 4240))) is member
            assert wall.passes(EGRESS, from_us(peer, tcp(4240, 5000, SYN | ACK))) is member
            assert not wall.passes(INGRESS, to_us(peer, udp(5000, 4240)))
            assert not wall.passes(INGRESS, to_us(peer, tcp(5000, 4241)))
            assert wall.passes(INGRESS, to_us(peer, tcp(5000, 22)))
        for peer in (STRANGER4, STRANGER6):
            assert not wall.passes(INGRESS, to_us(peer, tcp(5000, 4240)))
            assert wall.passes(INGRESS, to_us(peer, tcp(5000, 22)))
        wall.firewall.set_failsafe(FAILSAFE | checks)  # the same port, for everybody now
        assert wall.passes(INGRESS, to_us(STRANGER4, tcp(5009, 4240)))
        wall.firewall.set_failsafe(FAILSAFE)
        assert not wall.passes(INGRESS, to_us(FRIEND4, tcp(5010, 4240)))
    finally:
        wall.firewall.set_failsafe(FAILSAFE)


@pytest.mark.parametrize("peer", [FRIEND4, FRIEND6])
def test_answers_pass_and_only_answers(wall: FirewallBench, peer: str) -> None:
    nets = tables({peer: cells(OPEN, NOTHING)}, cells(NOTHING, NOTHING))
    wall.firewall.set_policy(nets)
    assert not wall.passes(EGRESS, from_us(peer, tcp(80, 4000, SYN | ACK)))
    assert wall.passes(INGRESS, to_us(peer, tcp(4000, 80)))
    assert wall.passes(EGRESS, from_us(peer, tcp(80, 4000, SYN | ACK)))
    assert not wall.passes(EGRESS, from_us(peer, tcp(80, 4001, ACK)))
    # A SYN the way of the answers opens a connection, and policy forbids that one; the first one lives on.
    assert not wall.passes(EGRESS, from_us(peer, tcp(80, 4000, SYN)))
    assert wall.passes(EGRESS, from_us(peer, tcp(80, 4000, ACK)))


def test_an_echo_request_is_no_answer(wall: FirewallBench) -> None:
    """Nor does an answer pass that nobody asked for."""
    wall.firewall.set_policy(tables({FRIEND4: cells(NOTHING, OPEN)}, cells(NOTHING, NOTHING)))
    assert not wall.passes(INGRESS, to_us(FRIEND4, echo(0)))
    assert wall.passes(EGRESS, from_us(FRIEND4, echo(8)))
    assert not wall.passes(INGRESS, to_us(FRIEND4, echo(8)))
    assert wall.passes(INGRESS, to_us(FRIEND4, echo(0)))
    assert not wall.passes(INGRESS, to_us(FRIEND4, echo(0, 8)))


def test_tightening_cuts_and_loosening_needs_no_reconnect(wall: FirewallBench) -> None:
    closed = tables({FRIEND4: cells(NOTHING, OPEN)}, cells(NOTHING, NOTHING))
    data_in, data_out = to_us(FRIEND4, tcp(4000, 80, ACK)), from_us(FRIEND4, tcp(80, 4000, ACK))
    assert wall.passes(INGRESS, to_us(FRIEND4, tcp(4000, 80)))
    assert wall.passes(EGRESS, from_us(FRIEND4, tcp(80, 4000, SYN | ACK)))
    wall.firewall.set_policy(closed)
    assert not wall.passes(EGRESS, data_out) and not wall.passes(INGRESS, data_in)
    wall.firewall.set_policy(POLICY)
    assert wall.passes(INGRESS, data_in) and wall.passes(EGRESS, data_out)


def test_a_set_that_does_not_fit_changes_nothing(wall: FirewallBench) -> None:
    before = wall.firewall.generation
    many = {f"10.{n >> 8}.{n & 255}.77": cells(OPEN, OPEN) for n in range(4097)}
    with pytest.raises(WardmeshError, match="networks") as caught:
        wall.firewall.set_policy(tables(many, cells(OPEN, OPEN)))
    assert "bpf.membersMax" in str(caught.value)
    ragged = {f"10.7.{n}.77": cells((0, *(n >> b & 1 for b in range(5))), OPEN) for n in range(32)}
    ragged |= {f"10.8.{n}.77": cells(OPEN, (0, *(n >> b & 3 for b in range(0, 8, 2)))) for n in range(256)}
    with pytest.raises(WardmeshError, match="groups of peers"):
        wall.firewall.set_policy(tables(ragged, cells(OPEN, OPEN)))
    assert wall.firewall.generation == before
    assert wall.passes(INGRESS, to_us(FRIEND4, tcp(1, 80)))
    assert not wall.passes(INGRESS, to_us("10.0.1.77", tcp(1, 80)))


def test_a_denied_flow_leaves_no_entry(wall: FirewallBench) -> None:
    for port in range(100):
        assert not wall.passes(INGRESS, to_us(STRANGER4, tcp(port + 1, 80)))
    assert wall.flows() == 0


def test_audit_records_and_drops_nothing(wall: FirewallBench) -> None:
    wall.firewall.set_audit(True)
    assert wall.run(INGRESS, to_us(STRANGER4, tcp(1, 80))).reasons == ("Audited",)
    wall.firewall.set_audit(False)
    assert not wall.passes(INGRESS, to_us(STRANGER4, tcp(1, 80, ACK)))
    wall.firewall.set_policy(tables(BOTH, cells(AUDITED, AUDITED)))
    assert wall.run(EGRESS, from_us(STRANGER4, udp(1, 9))).reasons == ("Audited",)


def test_nothing_is_enforced_before_a_policy_says_so(wall: FirewallBench) -> None:
    everything = (1,) * 7
    wall.firewall.set_policy(tables({}, cells(everything, everything), enforced=False))
    for frame in (to_us(STRANGER4, tcp(1, 99)), to_us(STRANGER6, icmp6(200)), ethernet(b"\x45" + bytes(19))):
        assert wall.passes(INGRESS, frame)


def test_neighbours_and_path_mtu_pass_whatever_policy_says(wall: FirewallBench) -> None:
    for kind in (1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 143):
        assert wall.passes(INGRESS, to_us(STRANGER6, icmp6(kind))), kind
        assert wall.passes(EGRESS, from_us(STRANGER6, icmp6(kind))), kind
    for kind in (100, 127, 137, 138, 139, 144, 200, 255):
        assert wall.run(INGRESS, to_us(STRANGER6, icmp6(kind))).reasons == ("Forbidden ICMPv6 message",), kind
    assert wall.passes(INGRESS, to_us(STRANGER4, icmp(3, 4)))
    assert not wall.passes(INGRESS, to_us(STRANGER4, icmp(3, 1)))
    assert wall.passes(INGRESS, arp())


def test_an_error_about_a_known_flow_passes(wall: FirewallBench) -> None:
    sent = ipv4(SELF4, FRIEND4, tcp(5000, 80))
    error = (ICMP, struct.pack("!BBHI", 3, 1, 0, 0) + sent[:28])
    assert not wall.passes(INGRESS, to_us(STRANGER4, error))
    assert wall.passes(EGRESS, ethernet(sent))
    assert wall.passes(INGRESS, to_us(STRANGER4, error))
    strange = (ICMP, struct.pack("!BBHI", 3, 1, 0, 0) + ipv4(SELF4, FRIEND4, tcp(5001, 80))[:28])
    assert not wall.passes(INGRESS, to_us(STRANGER4, strange))


@pytest.mark.parametrize("peer", [FRIEND4, FRIEND6])
def test_later_fragments_go_the_way_of_the_first(wall: FirewallBench, peer: str) -> None:
    def fragment(first: bool) -> bytes:
        if ":" in peer:
            return to_us(peer, udp(4000, 53), extensions=(fragment6(0 if first else 10),))
        return to_us(peer, udp(4000, 53), fragment=MORE if first else 10)

    assert wall.run(INGRESS, fragment(first=False)).reasons == ("Fragmented packet",)
    assert wall.passes(INGRESS, fragment(first=True))
    assert wall.passes(INGRESS, fragment(first=False))


def test_extension_headers_hide_nothing(wall: FirewallBench) -> None:
    for chain in ((hop_by_hop(),), (destination(1), hop_by_hop()), (destination(),) * 4):
        assert wall.passes(INGRESS, to_us(FRIEND6, tcp(1, 80), extensions=chain))
        assert not wall.passes(INGRESS, to_us(FRIEND6, tcp(1, 81), extensions=chain))
    endless = to_us(FRIEND6, tcp(1, 80), extensions=(destination(),) * 9)
    assert wall.run(INGRESS, endless).reasons == ("Invalid packet",)


@pytest.mark.parametrize("peer", [STRANGER4, STRANGER6])
def test_the_tunnels_packets_are_left_alone(wall: FirewallBench, peer: str) -> None:
    assert wall.passes(INGRESS, to_us(peer, udp(LISTEN_PORT, LISTEN_PORT)))
    assert wall.passes(EGRESS, from_us(peer, udp(LISTEN_PORT, LISTEN_PORT)), mark=MARK)
    assert not wall.passes(EGRESS, from_us(peer, udp(LISTEN_PORT, LISTEN_PORT)))
    assert not wall.passes(INGRESS, to_us(peer, tcp(LISTEN_PORT, LISTEN_PORT)))
    assert wall.flows() == 0


@pytest.mark.parametrize("peer", [STRANGER4, STRANGER6])
def test_fragments_of_the_tunnel_are_the_tunnels(wall: FirewallBench, peer: str) -> None:
    def fragment(make: object, first: bool) -> bytes:
        inner = udp(1000, LISTEN_PORT)
        if ":" in peer:
            return make(peer, inner, extensions=(fragment6(0 if first else 10),))  # type: ignore[operator,no-any-return]
        return make(peer, inner, fragment=MORE if first else 10)  # type: ignore[operator,no-any-return]

    assert wall.passes(INGRESS, fragment(to_us, first=True))
    assert wall.passes(INGRESS, fragment(to_us, first=False))
    assert wall.passes(EGRESS, fragment(from_us, first=True), mark=MARK)
    assert wall.passes(EGRESS, fragment(from_us, first=False), mark=MARK)


def test_the_mark_does_not_let_through_what_cannot_be_read(wall: FirewallBench) -> None:
    cut = from_us(STRANGER4, udp(LISTEN_PORT, 1000))[: 14 + 20 + 2]
    assert not wall.passes(EGRESS, cut, mark=MARK)


def test_what_came_in_elsewhere_is_not_the_hosts(wall: FirewallBench) -> None:
    assert wall.passes(EGRESS, from_us(STRANGER4, tcp(1, 80)), came_in=1)


def test_devices_without_a_link_layer(wall: FirewallBench) -> None:
    for peer, passes in ((FRIEND4, True), (FOE4, False), (FRIEND6, True), (FOE6, False)):
        assert wall.passes(INGRESS, to_us(peer, tcp(1, 80))[14:], l2=False) is passes


def test_a_change_that_does_not_concern_a_peer_is_no_gap_for_it(wall: FirewallBench) -> None:
    """Peers come, go and change row, many times; what the friend and the foe meet never changes."""
    for step in range(20):
        named = {**BOTH, FOE4: cells(FORBIDDEN, FORBIDDEN)}
        named |= {
            f"10.1.{step}.{place}": cells(OPEN if place % 3 else NOTHING, OPEN) for place in range(step)
        }
        wall.firewall.set_policy(tables(named, cells(NOTHING, NOTHING)))
        wall.forget_flows()
        assert wall.passes(INGRESS, to_us(FRIEND4, tcp(1, 80)))
        assert wall.run(INGRESS, to_us(FOE4, tcp(1, 80))).reasons == DENYLIST
        assert not wall.passes(INGRESS, to_us(STRANGER4, tcp(1, 80)))
    rows = {row for _identity, row in wall.firewall._peers().values()}
    assert len(rows) <= 4
