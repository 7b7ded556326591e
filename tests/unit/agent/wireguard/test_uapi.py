# SPDX-License-Identifier: Apache-2.0
"""The text protocol against answers as wireguard-go gives them."""

from __future__ import annotations

import base64
import ipaddress

from wardmesh.model.fleetmap import Endpoint
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState, PeerUpdate
from wardmesh.wireguard.uapi import change_lines, parse_device, provoke_lines

KEY_A, KEY_B = (base64.b64encode(bytes([number] * 32)).decode() for number in (0xAA, 0xBB))
HEX_A, HEX_B = "aa" * 32, "bb" * 32
ANSWER = f"""private_key={"11" * 32}
listen_port=51871
fwmark=7680
public_key={HEX_A}
preshared_key={"00" * 32}
protocol_version=1
endpoint=192.0.2.1:51871
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=148
rx_bytes=92
persistent_keepalive_interval=25
allowed_ip=10.0.0.1/32
allowed_ip=fd00::1/128
public_key={HEX_B}
protocol_version=1
endpoint=[2001:db8::2]:51871
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
errno=0

""".encode()


def networks(*texts: str) -> frozenset[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return frozenset(map(ipaddress.ip_network, texts))


def test_a_device_with_peers_is_read() -> None:
    settings, peers, _cache = parse_device(ANSWER, {})
    assert (settings["listen_port"], settings["fwmark"], settings["errno"]) == ("51871", "7680", "0")
    assert peers == {
        KEY_A: PeerState(
            KEY_A,
            Endpoint("192.0.2.1", 51871),
            networks("10.0.0.1/32", "fd00::1/128"),
            25,
            1700000000.5,
            92,
            148,
        ),
        KEY_B: PeerState(KEY_B, Endpoint("2001:db8::2", 51871), frozenset(), 0, 0.0, 0, 0),
    }


def test_a_device_without_peers_is_read() -> None:
    settings, peers, _cache = parse_device(b"private_key=" + b"00" * 32 + b"\nlisten_port=4\nerrno=0\n\n", {})
    assert (settings["listen_port"], settings["errno"], peers) == ("4", "0", {})


def test_a_peer_without_an_endpoint_is_read() -> None:
    _settings, peers, _cache = parse_device(
        f"public_key={HEX_A}\nallowed_ip=10.0.0.1/32\nerrno=0\n\n".encode(), {}
    )
    assert peers[KEY_A].endpoint is None


def test_what_did_not_change_is_the_same_object() -> None:
    _settings, before, cache = parse_device(ANSWER, {})
    _settings, after, _cache = parse_device(ANSWER.replace(b"tx_bytes=148", b"tx_bytes=149"), cache)
    assert after[KEY_B] is before[KEY_B]
    assert after[KEY_A] is not before[KEY_A]
    assert after[KEY_A].tx_bytes == 149
    assert after[KEY_A].allowed_ips is before[KEY_A].allowed_ips


def test_the_lines_of_a_delta() -> None:
    changes = PeerChanges(
        add=(PeerConfig(KEY_A, Endpoint("2001:db8::1", 5), networks("10.0.0.1/32", "10.0.0.2/32"), 0),),
        update=(
            PeerUpdate(KEY_B, endpoint=Endpoint("192.0.2.7", 9)),
            PeerUpdate(KEY_B, keepalive=25),
            PeerUpdate(KEY_B, gained=networks("10.0.0.9/32")),
            PeerUpdate(KEY_B, allowed_ips=networks("10.0.0.8/32")),
        ),
        remove=(KEY_A,),
    )
    assert change_lines(changes) == [
        *(f"public_key={HEX_A}", "replace_allowed_ips=true", "endpoint=[2001:db8::1]:5"),
        *("persistent_keepalive_interval=0", "allowed_ip=10.0.0.1/32", "allowed_ip=10.0.0.2/32"),
        *(f"public_key={HEX_B}", "update_only=true", "endpoint=192.0.2.7:9"),
        *(f"public_key={HEX_B}", "update_only=true", "persistent_keepalive_interval=25"),
        *(f"public_key={HEX_B}", "update_only=true", "allowed_ip=10.0.0.9/32"),
        *(f"public_key={HEX_B}", "update_only=true", "replace_allowed_ips=true", "allowed_ip=10.0.0.8/32"),
        *(f"public_key={HEX_A}", "remove=true"),
    ]


def test_provoking_ends_with_the_keepalive_that_was() -> None:
    def peer(keepalive: int) -> PeerState:
        return PeerState(KEY_A, None, frozenset(), keepalive, 0.0, 0, 0)

    def values(keepalive: int) -> list[str]:
        return [line.split("=")[1] for line in provoke_lines([peer(keepalive)]) if "keepalive" in line]

    assert values(0) == ["25", "0"]
    assert values(7) == ["0", "7"]
