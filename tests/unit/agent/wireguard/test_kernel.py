# SPDX-License-Identifier: Apache-2.0
"""The kernel's binary form, held against pyroute2's reading of it and against a dump put together by hand."""

from __future__ import annotations

import base64
import ipaddress
import struct
from typing import Any

import pytest

from wardmesh.host import netlink
from wardmesh.model.fleetmap import Endpoint, Network
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState, PeerUpdate
from wardmesh.wireguard.kernel import pack_changes, unpack_device

KEY_A, KEY_B = (base64.b64encode(bytes([number] * 32)).decode() for number in (0xAA, 0xBB))
GENL = struct.pack("=BBH", 1, 1, 0)


def networks(*texts: str) -> frozenset[Network]:
    return frozenset(map(ipaddress.ip_network, texts))


def read_by_pyroute2(part: bytes) -> list[dict[str, Any]]:
    """The peers of a message as pyroute2 decodes them."""
    wireguard = pytest.importorskip("pyroute2.netlink.generic.wireguard")
    header = struct.pack("=IHHII", 16 + len(GENL) + len(part), 30, 5, 1, 0)
    message = wireguard.wgmsg(header + GENL + part)
    message.decode()
    peers = []
    for peer in message.get_attr("WGDEVICE_A_PEERS"):
        found = {
            name: peer.get_attr(f"WGPEER_A_{name}")
            for name in ("FLAGS", "ENDPOINT", "PERSISTENT_KEEPALIVE_INTERVAL")
        }
        key = peer.get_attr("WGPEER_A_PUBLIC_KEY")
        found["key"] = (key["value"] if isinstance(key, dict) else key).decode()
        found["allowed"] = sorted(ip["addr"] for ip in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ())
        peers.append(found)
    return peers


def test_pyroute2_reads_what_we_send() -> None:
    changes = PeerChanges(
        add=(PeerConfig(KEY_A, Endpoint("192.0.2.1", 51871), networks("10.0.0.1/32", "fd00::/64"), 25),),
        update=(
            PeerUpdate(KEY_B, endpoint=Endpoint("2001:db8::7", 9)),
            PeerUpdate(KEY_B, gained=networks("10.0.0.9/32")),
            PeerUpdate(KEY_B, allowed_ips=networks("10.0.0.8/32")),
        ),
        remove=(KEY_A,),
    )
    (part,) = pack_changes(changes)
    add, moved, gained, replaced, removed = read_by_pyroute2(part)
    assert (add["key"], add["FLAGS"], add["PERSISTENT_KEEPALIVE_INTERVAL"]) == (KEY_A, 2, 25)
    assert (add["ENDPOINT"]["addr"], add["ENDPOINT"]["port"]) == ("192.0.2.1", 51871)
    assert add["allowed"] == ["10.0.0.1/32", "fd00::/64"]
    assert (moved["key"], moved["FLAGS"], moved["allowed"]) == (KEY_B, 4, [])
    assert (moved["ENDPOINT"]["addr"], moved["ENDPOINT"]["port"]) == ("2001:db8::7", 9)
    assert moved["PERSISTENT_KEEPALIVE_INTERVAL"] is None
    assert (gained["FLAGS"], gained["allowed"], gained["ENDPOINT"]) == (4, ["10.0.0.9/32"], None)
    assert (replaced["FLAGS"], replaced["allowed"]) == (6, ["10.0.0.8/32"])
    assert (removed["key"], removed["FLAGS"]) == (KEY_A, 1)


def test_ten_thousand_peers_fit_into_messages_that_netlink_can_carry() -> None:
    peers = tuple(
        PeerConfig(
            base64.b64encode(number.to_bytes(32, "big")).decode(),
            Endpoint("192.0.2.1", 1),
            frozenset([ipaddress.IPv4Network((number, 32))]),
        )
        for number in range(10_000)
    )
    parts = pack_changes(PeerChanges(add=peers))
    assert max(map(len, parts)) < 1 << 15
    assert len(parts) < 100
    sent = [
        bytes(entry)[4:36]
        for part in parts
        for _kind, nest in netlink.walk(part)
        for _n, entry in netlink.walk(nest)
    ]
    assert sent == [base64.b64decode(peer.key) for peer in peers]


def test_a_peer_with_many_networks_is_split_and_only_its_first_part_replaces() -> None:
    allowed = frozenset(ipaddress.IPv4Network((number, 32)) for number in range(5000))
    parts = pack_changes(PeerChanges(update=(PeerUpdate(KEY_A, allowed_ips=allowed),)))
    entries = [
        dict(netlink.walk(entry))
        for part in parts
        for _k, nest in netlink.walk(part)
        for _n, entry in netlink.walk(nest)
    ]
    assert [netlink.number(entry[3]) for entry in entries] == [6] + [4] * 9
    assert sum(len(list(netlink.walk(entry[9]))) for entry in entries) == 5000
    assert max(map(len, parts)) < 1 << 15


def dumped_peer(key: str, allowed: list[str], tx: int = 7) -> bytes:
    """A peer as the kernel's get_peer() writes it."""
    sockaddr = struct.pack("=H2s4s8x", 2, (51871).to_bytes(2, "big"), bytes([192, 0, 2, 1]))
    ips = b"".join(
        netlink.nest(
            0,
            netlink.attr_u8(3, net.prefixlen),
            netlink.attr_u16(1, 2 if net.version == 4 else 10),
            netlink.attr(2, net.network_address.packed),
        )
        for net in map(ipaddress.ip_network, allowed)
    )
    return netlink.nest(
        0,
        netlink.attr(1, base64.b64decode(key)),
        netlink.attr(2, bytes(32)),
        netlink.attr(6, struct.pack("=qq", 1_700_000_000, 500_000_000)),
        netlink.attr_u16(5, 25),
        netlink.attr(8, struct.pack("=Q", tx)),
        netlink.attr(7, struct.pack("=Q", 1 << 40)),
        netlink.attr_u32(10, 1),
        netlink.attr(4, sockaddr),
        netlink.nest(9, ips),
    )


def dump(*peers: bytes) -> bytes:
    return (
        GENL
        + netlink.attr_u16(6, 51871)
        + netlink.attr_u32(7, 0x1E00)
        + netlink.attr_u32(1, 12)
        + netlink.attr_text(2, "wardmesh_wg0")
        + netlink.attr(4, bytes([1] * 32))
        + netlink.nest(8, *peers)
    )


def test_a_dump_is_read() -> None:
    state, _cache = unpack_device([dump(dumped_peer(KEY_A, ["10.0.0.1/32", "fd00::/64"]))], {})
    assert (state.ifindex, state.listen_port, state.fwmark) == (12, 51871, 0x1E00)
    assert state.public_key == base64.b64encode(bytes([1] * 32)).decode()
    assert state.peers == {
        KEY_A: PeerState(
            KEY_A,
            Endpoint("192.0.2.1", 51871),
            networks("10.0.0.1/32", "fd00::/64"),
            25,
            1_700_000_000.5,
            1 << 40,
            7,
        )
    }


def test_a_peer_that_goes_on_in_the_next_message_is_one_peer() -> None:
    ip = (netlink.attr_u8(3, 32), netlink.attr_u16(1, 2), netlink.attr(2, bytes([10, 0, 0, 2])))
    allowed = netlink.nest(9, netlink.nest(0, *ip))
    rest = netlink.nest(0, netlink.attr(1, base64.b64decode(KEY_A)), allowed)
    state, _cache = unpack_device(
        [dump(dumped_peer(KEY_A, ["10.0.0.1/32"])), GENL + netlink.nest(8, rest)], {}
    )
    assert state.peers[KEY_A].allowed_ips == networks("10.0.0.1/32", "10.0.0.2/32")
    assert state.peers[KEY_A].keepalive == 25
    assert state.listen_port == 51871


def test_what_did_not_change_is_the_same_object() -> None:
    first, cache = unpack_device([dump(dumped_peer(KEY_A, []), dumped_peer(KEY_B, []))], {})
    second, _cache = unpack_device([dump(dumped_peer(KEY_A, [], 8), dumped_peer(KEY_B, []))], cache)
    assert second.peers[KEY_B] is first.peers[KEY_B]
    assert second.peers[KEY_A].tx_bytes == 8
