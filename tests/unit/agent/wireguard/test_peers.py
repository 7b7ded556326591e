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
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState, PeerUpdate
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
    want: list[PeerConfig],
    present: list[PeerState],
    written: dict[str, Endpoint | None] | None = None,
    lost: tuple[str, ...] = (),
) -> PeerChanges:
    return diff_peers({p.key: p for p in want}, {p.key: p for p in present}, written or {}, lost)


def test_a_map_becomes_the_peers_of_the_others() -> None:
    address, subnet = ipaddress.ip_address("10.0.0.2"), ipaddress.ip_network("10.5.0.0/16")
    other = Member("b", "key-b", (address,), HERE, 25, (subnet,))
    own = Member("a", "key-a", (ipaddress.ip_address("10.0.0.1"),), THERE)
    fleet = FleetMap(1, Cluster(), (own, other), "")
    assert desired_peers(fleet, "a") == {
        "key-b": PeerConfig("key-b", HERE, networks("10.0.0.2/32", "10.5.0.0/16"), 25)
    }


def test_what_is_as_it_should_be_is_not_sent() -> None:
    assert not diff(
        [wish("a"), wish("b", "10.0.0.2/32")], [found(wish("a")), found(wish("b", "10.0.0.2/32"))]
    )


def test_new_and_gone_peers() -> None:
    assert diff([wish("a")], [found(wish("b"))]) == PeerChanges(add=(wish("a"),), remove=("b",))


@pytest.mark.parametrize(
    ("case", "written", "device", "handshake", "lost", "sent"),
    [
        ("roamed after we wrote it", {"a": HERE}, ROAMED, 1.0, (), None),
        ("roamed before the agent started", {}, ROAMED, 1.0, (), None),
        ("the map changed", {"a": THERE}, ROAMED, 1.0, (), HERE),
        ("the map changed to where the peer already is", {"a": THERE}, HERE, 1.0, (), None),
        ("never met and elsewhere", {}, ROAMED, 0.0, (), HERE),
        ("does not answer where it roamed to", {"a": HERE}, ROAMED, 1.0, ("a",), HERE),
        ("does not answer where the map has it", {"a": HERE}, HERE, 1.0, ("a",), None),
    ],
)
def test_endpoints(
    case: str,
    written: dict[str, Endpoint | None],
    device: Endpoint,
    handshake: float,
    lost: tuple[str, ...],
    sent: Endpoint | None,
) -> None:
    changes = diff([wish("a")], [found(wish("a"), device, handshake)], written, lost)
    assert changes == (PeerChanges(update=(PeerUpdate("a", endpoint=sent),)) if sent else PeerChanges()), case


def test_a_keepalive_alone_is_sent_alone() -> None:
    changes = diff([wish("a", keepalive=25)], [found(wish("a"))])
    assert changes == PeerChanges(update=(PeerUpdate("a", keepalive=25),))


def test_a_gained_address_does_not_replace_the_others() -> None:
    (update,) = diff([wish("a", "10.0.0.1/32", "10.0.0.9/32")], [found(wish("a"))]).update
    assert (update.gained, update.allowed_ips) == (networks("10.0.0.9/32"), None)


def test_a_lost_address_replaces_that_peers_only() -> None:
    kept = wish("b", "10.0.0.2/32")
    changes = diff([wish("a"), kept], [found(wish("a", "10.0.0.1/32", "10.0.0.9/32")), found(kept)])
    assert [update.key for update in changes.update] == ["a"]
    assert changes.update[0].allowed_ips == networks("10.0.0.1/32")


def test_an_address_that_moves_is_gained_before_anything_is_replaced() -> None:
    before = [found(wish("a", "10.0.0.1/32", "10.0.0.9/32", "10.0.0.8/32")), found(wish("b", "10.0.0.2/32"))]
    changes = diff([wish("a"), wish("b", "10.0.0.2/32", "10.0.0.9/32")], before)
    assert [(update.key, update.allowed_ips is None) for update in changes.update] == [
        ("b", True),
        ("a", False),
    ]


def test_an_address_that_only_moves_replaces_nothing() -> None:
    before = [found(wish("a", "10.0.0.1/32", "10.0.0.9/32")), found(wish("b", "10.0.0.2/32"))]
    changes = diff([wish("a"), wish("b", "10.0.0.2/32", "10.0.0.9/32")], before)
    assert [update.key for update in changes.update] == ["b"]


class Device:
    """What WireGuard does with a delta: an allowed IP belongs to the peer that had it given last."""

    def __init__(self, peers: Mapping[str, frozenset[int]]) -> None:
        self.owner = {ip: key for key, ips in peers.items() for ip in ips}
        self.peers = set(peers)
        self.unowned: set[int] = set()

    def apply(self, changes: PeerChanges, always: set[int]) -> None:
        """always: numbers that some peer has before and after; none of them may be nobody's in between."""
        for peer in changes.add:
            self.peers.add(peer.key)
            self._give(peer.key, peer.allowed_ips)
        for update in changes.update:
            assert update.key in self.peers
            if update.allowed_ips is not None:
                self._take(update.key, update.allowed_ips)
                self._give(update.key, update.allowed_ips)
            self._give(update.key, update.gained)
            self.unowned |= always - set(self.owner)
        for key in changes.remove:
            self.peers.remove(key)
            self._take(key, frozenset())
            self.unowned |= always - set(self.owner)

    def _give(self, key: str, nets: frozenset[Network]) -> None:
        self.owner.update({int(net.network_address): key for net in nets})

    def _take(self, key: str, keep: frozenset[Network]) -> None:
        kept = {int(net.network_address) for net in keep}
        self.owner = {ip: owner for ip, owner in self.owner.items() if owner != key or ip in kept}


owners = st.dictionaries(st.integers(1, 12), st.sampled_from("abcde"), max_size=12)


def by_peer(owner: Mapping[int, str], extra: set[str]) -> dict[str, frozenset[int]]:
    keys = set(owner.values()) | extra
    return {key: frozenset(ip for ip, who in owner.items() if who == key) for key in sorted(keys)}


@given(owners, owners, st.sets(st.sampled_from("abcde")), st.sets(st.sampled_from("abcde")))
def test_any_delta_leads_to_what_is_wanted_without_a_gap(
    before: dict[int, str], after: dict[int, str], empty_before: set[str], empty_after: set[str]
) -> None:
    old, new = by_peer(before, empty_before), by_peer(after, empty_after)

    def nets(ips: frozenset[int]) -> frozenset[Network]:
        return frozenset(ipaddress.IPv4Network((ip, 32)) for ip in ips)

    want = {key: PeerConfig(key, HERE, nets(ips)) for key, ips in new.items()}
    present = {key: PeerState(key, HERE, nets(ips), 0, 1.0, 0, 0) for key, ips in old.items()}
    changes = diff_peers(want, present, {})
    device = Device(old)
    device.apply(changes, set(before) & set(after))
    assert device.owner == after
    assert device.peers == set(new)
    assert not device.unowned
    unchanged = {key for key in old if new.get(key) == old[key]}
    assert unchanged.isdisjoint({update.key for update in changes.update} | set(changes.remove))
