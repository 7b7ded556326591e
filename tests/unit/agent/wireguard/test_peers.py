# SPDX-License-Identifier: Apache-2.0
"""Deltas: nothing that did not change is sent, and what is sent leads to what is wanted."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import Endpoint, FleetMap, Member, Network
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState
from wardmesh.wireguard.peers import desired_peers, diff_peers

HERE, THERE, ROAMED = (
    Endpoint("192.0.2.1", 51871),
    Endpoint("192.0.2.2", 51871),
    Endpoint("198.51.100.9", 4000),
)


def networks(*texts: str) -> frozenset[Network]:
    return frozenset(map(ipaddress.ip_network, texts))


def wish(key: str = "a", *allowed: str, endpoint: Endpoint | None = HERE, keepalive: int = 0) -> PeerConfig:
    return PeerConfig(key, endpoint, networks(*(allowed or ("10.0.0.1/32",))), keepalive)


def found(peer: PeerConfig, endpoint: Endpoint | None = HERE, handshake: float = 1.0) -> PeerState:
    return PeerState(peer.key, endpoint, peer.allowed_ips, peer.keepalive, handshake, 0, 0)


def diff(
    want: list[PeerConfig], present: list[PeerState], written: dict[str, Endpoint | None] | None = None
) -> PeerChanges:
    return diff_peers({p.key: p for p in want}, {p.key: p for p in present}, written or {})


def test_a_map_becomes_the_peers_of_the_others() -> None:
    address, subnet = ipaddress.ip_address("10.0.0.2"), ipaddress.ip_network("10.5.0.0/16")
    other = Member("b", "key-b", (address,), HERE, 25, (subnet,))
    own = Member("a", "key-a", (ipaddress.ip_address("10.0.0.1"),), THERE)
    fleet = FleetMap(1, Cluster(), (own, other), "")
    assert desired_peers(fleet, "key-a") == {
        "key-b": PeerConfig("key-b", HERE, networks("10.0.0.2/32", "10.5.0.0/16"), 25)
    }


def test_what_is_as_it_should_be_is_not_sent() -> None:
    assert not diff(
        [wish("a"), wish("b", "10.0.0.2/32")], [found(wish("a")), found(wish("b", "10.0.0.2/32"))]
    )


def test_new_and_gone_peers() -> None:
    assert diff([wish("a")], [found(wish("b"))]) == PeerChanges((wish("a"),), ("b",))


@pytest.mark.parametrize(
    ("case", "written", "device", "handshake", "sent"),
    [
        ("roamed after we wrote it", {"a": HERE}, ROAMED, 1.0, None),
        ("roamed before the agent started", {}, ROAMED, 1.0, None),
        ("the map changed", {"a": THERE}, ROAMED, 1.0, HERE),
        ("never met and elsewhere", {}, ROAMED, 0.0, HERE),
    ],
)
def test_endpoints(
    case: str, written: dict[str, Endpoint | None], device: Endpoint, handshake: float, sent: Endpoint | None
) -> None:
    changes = diff([wish("a")], [found(wish("a"), device, handshake)], written)
    assert [peer.endpoint for peer in changes.set] == ([sent] if sent else []), case


def test_a_changed_peer_keeps_the_endpoint_that_it_roamed_to() -> None:
    (peer,) = diff([wish("a", keepalive=25)], [found(wish("a"), ROAMED)], {"a": HERE}).set
    assert (peer.endpoint, peer.keepalive) == (None, 25)


owners = st.dictionaries(st.integers(1, 12), st.sampled_from("abcde"), max_size=12)


def by_peer(owner: Mapping[int, str], extra: set[str]) -> dict[str, frozenset[Network]]:
    keys = set(owner.values()) | extra
    return {
        key: frozenset(ipaddress.IPv4Network((ip, 32)) for ip, who in owner.items() if who == key)
        for key in sorted(keys)
    }


@given(owners, owners, st.sets(st.sampled_from("abcde")), st.sets(st.sampled_from("abcde")))
def test_any_delta_leads_to_what_is_wanted(
    before: dict[int, str], after: dict[int, str], empty_before: set[str], empty_after: set[str]
) -> None:
    """On a device that does what WireGuard does: an allowed IP is the peer's that had it given last."""
    old, new = by_peer(before, empty_before), by_peer(after, empty_after)
    want = {key: PeerConfig(key, HERE, nets) for key, nets in new.items()}
    changes = diff_peers(
        want, {key: PeerState(key, HERE, nets, 0, 1.0, 0, 0) for key, nets in old.items()}, {}
    )
    device = dict(old)
    for key in changes.remove:
        del device[key]
    for peer in changes.set:
        device = {key: nets - peer.allowed_ips for key, nets in device.items()}
        device[peer.key] = peer.allowed_ips
    assert device == new
    unchanged = {key for key in old if new.get(key) == old[key]}
    assert unchanged.isdisjoint({peer.key for peer in changes.set} | set(changes.remove))
