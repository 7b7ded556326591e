# SPDX-License-Identifier: Apache-2.0
"""Peer deltas, liveness and rules, without a kernel."""

from __future__ import annotations

import ipaddress
import socket

from wardmesh.model.fleetmap import Endpoint
from wardmesh.wireguard.backend import PeerConfig, PeerState
from wardmesh.wireguard.liveness import MAX_PROVOKED, Liveness
from wardmesh.wireguard.peers import diff_peers
from wardmesh.wireguard.routing import desired_rules

NETS = frozenset({ipaddress.ip_network("10.0.0.1/32")})
HOME = Endpoint("10.0.0.1", 51871)
ROAMED = Endpoint("198.51.100.9", 4000)


def state(handshake: float = 0, tx: int = 0, endpoint: Endpoint = HOME, keepalive: int = 0) -> PeerState:
    return PeerState("k", endpoint, NETS, keepalive, handshake, 0, tx)


def test_nothing_to_send_when_nothing_differs() -> None:
    assert not diff_peers({"k": PeerConfig("k", HOME, NETS)}, {"k": state()}, {"k": HOME})


def test_a_roamed_endpoint_is_left_alone() -> None:
    assert not diff_peers({"k": PeerConfig("k", HOME, NETS)}, {"k": state(endpoint=ROAMED)}, {"k": HOME})


def test_a_moved_endpoint_is_written() -> None:
    moved = PeerConfig("k", ROAMED, NETS)
    assert diff_peers({"k": moved}, {"k": state()}, {"k": HOME}).set == (moved,)


def test_other_changes_leave_the_endpoint_out() -> None:
    delta = diff_peers({"k": PeerConfig("k", HOME, NETS, 25)}, {"k": state(endpoint=ROAMED)}, {"k": HOME})
    assert delta.set == (PeerConfig("k", None, NETS, 25),)


def test_strangers_are_removed() -> None:
    assert diff_peers({}, {"k": state()}, {}).remove == ("k",)


def test_up_after_a_handshake_and_up_while_idle() -> None:
    live = Liveness()
    live.observe(1000, {"k": state()})
    assert not live.up("k")
    assert live.observe(1001, {"k": state(handshake=1001)})
    live.observe(2000, {"k": state(handshake=1001)})
    assert live.up("k")


def test_down_when_sending_into_silence() -> None:
    live = Liveness()
    live.observe(1000, {"k": state(handshake=1000)})
    for step in range(8):
        live.observe(1200 + step * 3, {"k": state(handshake=1000, tx=100 + step)})
    assert not live.up("k")


def test_provocations_are_capped_and_spaced() -> None:
    live = Liveness()
    peers = {str(number): state() for number in range(100)}
    live.observe(1000, peers)
    first = live.to_provoke(1000, peers)
    second = live.to_provoke(1001, peers)
    assert len(first) == len(second) == MAX_PROVOKED
    assert not set(first) & set(second)


def test_rules_of_a_subnet_belong_to_its_family() -> None:
    rules = desired_rules([ipaddress.ip_network("10.5.0.0/16")], ["eth0"])
    assert (91, "from", "10.5.0.0/16") in rules[socket.AF_INET]
    assert not [rule for rule in rules[socket.AF_INET6] if rule[0] == 91]
    assert (92, "iif", "eth0") in rules[socket.AF_INET6]
