# SPDX-License-Identifier: Apache-2.0
"""Who there is, as policy sees it: every address with its labels, and sets of them as big integers.

A set of entries is a Python integer with a bit for each; union, intersection and difference of 10,000 entries
are then one machine operation per 30 of them (reference: performance of big-integer sets).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wardmesh.model.fleetmap import Address, Network, host_network
from wardmesh.policy.selector import ANY, Labels, Requirement, Selector, index_labels

WORLD, WORLD4, WORLD6 = "reserved:world=", "reserved:world-ipv4=", "reserved:world-ipv6="
HOST, REMOTE_NODE = "reserved:host=", "reserved:remote-node="


@dataclass(frozen=True)
class Endpoint:
    """A member. labels: with the implicit ones, without host and remote-node; host: false for a pod."""

    name: str
    cluster: str
    labels: frozenset[str]
    addresses: tuple[Address, ...]
    ports: Mapping[str, int] = field(default_factory=dict)
    host: bool = True
    subnets: tuple[Network, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A network that policy can tell from others. member: whose it is, None for the world."""

    network: Network
    labels: frozenset[str]
    member: Endpoint | None


def implicit_labels(user: Mapping[str, str], cluster: str, name: str, pod: bool = False) -> frozenset[str]:
    """A member's labels (DESIGN §6): pods carry only what Kubernetes gave them, and the cluster."""
    policy_cluster = f"k8s:io.cilium.k8s.policy.cluster={cluster}"
    if pod:
        return frozenset({f"k8s:{key}={value}" for key, value in user.items()} | {policy_cluster})
    own = {f"vm:{key}={value}" for key, value in user.items()}
    implicit = {f"vm:cluster={cluster}", f"vm:node={name}", f"k8s:io.cilium.k8s.node-name={name}"}
    return frozenset(own | implicit | {policy_cluster})


class Universe:
    """Entries and sets of them. local: the endpoint whose policy is computed; it is no peer of itself."""

    def __init__(self, endpoints: Iterable[Endpoint], cluster: str, networks: Iterable[Network] = ()) -> None:
        self.cluster = cluster
        self.entries: list[Entry] = []
        known: dict[Network, int] = {}
        for endpoint in endpoints:
            labels = endpoint.labels | {REMOTE_NODE} if endpoint.host else endpoint.labels
            for network in (*map(host_network, endpoint.addresses), *endpoint.subnets):
                known[network] = len(self.entries)
                self.entries.append(Entry(network, labels, endpoint))
        whole = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
        for network in dict.fromkeys([*whole, *networks]):
            if network not in known:
                owner = self._owner(network, known)
                known[network] = len(self.entries)
                self.entries.append(owner)
        self._known = known
        self._lengths = {
            version: sorted({n.prefixlen for n in known if n.version == version}, reverse=True)
            for version in (4, 6)
        }
        self.everything = (1 << len(self.entries)) - 1
        self.managed = self._set(entry.member is not None for entry in self.entries)
        self._requirements: dict[Requirement, int] = {}
        self._cidrs: dict[Network, int] = {}
        indexed = {entry.labels: index_labels(entry.labels) for entry in self.entries}
        self._index = [indexed[entry.labels] for entry in self.entries]
        self._keys: dict[tuple[str, str], int] = {}
        self._values: dict[tuple[str, str, str], int] = {}
        self._fill()

    def _owner(self, network: Network, known: Mapping[Network, int]) -> Entry:
        """A prefix of a policy inside a member's subnet is still that member's."""
        for length in range(network.prefixlen - 1, -1, -1):
            place = known.get(network.supernet(new_prefix=length))
            if place is not None and self.entries[place].member is not None:
                return Entry(network, self.entries[place].labels, self.entries[place].member)
        return Entry(network, frozenset({WORLD, WORLD4 if network.version == 4 else WORLD6}), None)

    def _set(self, flags: Iterable[bool]) -> int:
        return int("".join("1" if flag else "0" for flag in reversed(list(flags))) or "0", 2)

    def _fill(self) -> None:
        # Places are gathered first: to make a set of thousands of bits larger by one is to copy it.
        keys: dict[tuple[str, str], list[int]] = {}
        values: dict[tuple[str, str, str], list[int]] = {}
        for place, labels in enumerate(self._index):
            for key, sources in labels.items():
                for source, value in sources.items():
                    for name in (source, ANY):
                        keys.setdefault((name, key), []).append(place)
                        values.setdefault((name, key, value), []).append(place)
        self._keys = {found: self._bits(places) for found, places in keys.items()}
        self._values = {found: self._bits(places) for found, places in values.items()}

    def _bits(self, places: list[int]) -> int:
        if len(places) == 1:
            return 1 << places[0]
        raw = bytearray(len(self.entries) // 8 + 1)
        for place in places:
            raw[place >> 3] |= 1 << (place & 7)
        return int.from_bytes(raw, "little")

    def place_of(self, address: Address) -> int:
        """The entry of an address: the longest network that holds it."""
        network = ipaddress.ip_network(address)
        for length in self._lengths[network.version]:
            place = self._known.get(network.supernet(new_prefix=length))
            if place is not None:
                return place
        raise AssertionError("the whole address space is an entry")

    def labels_of(self, place: int) -> Labels:
        """The labels of an entry, by key."""
        return self._index[place]

    def selected(self, selector: Selector) -> int:
        """Entries that a peer selector matches: members only, unless it names a reserved label."""
        found = self.matching(selector)
        return found if selector.names_reserved else found & self.managed

    def matching(self, selector: Selector) -> int:
        """Entries whose labels meet a selector, strangers included."""
        found = self.everything
        for requirement in selector.requirements:
            found &= self._holding(requirement)
        return found

    def _holding(self, item: Requirement) -> int:
        found = self._requirements.get(item)
        if found is None:
            if item.operator in ("Exists", "DoesNotExist"):
                found = self._keys.get((item.source, item.key), 0)
            else:
                found = 0
                for value in item.values:
                    found |= self._values.get((item.source, item.key, value), 0)
            if item.operator in ("NotIn", "DoesNotExist"):
                found = self.everything & ~found
            self._requirements[item] = found
        return found

    def within(self, network: Network) -> int:
        """Entries inside a prefix."""
        found = self._cidrs.get(network)
        if found is None:
            low, high = int(network.network_address), int(network.broadcast_address)
            found = self._set(
                entry.network.version == network.version
                and low <= int(entry.network.network_address)
                and int(entry.network.broadcast_address) <= high
                for entry in self.entries
            )
            self._cidrs[network] = found
        return found

    def entity(self, name: str) -> int:
        """Entries of an entity. A host's own packets to itself never meet its policy, so host is nobody."""
        if name == "all":
            return self.everything
        if name == "world":
            return self.everything & ~self.managed
        if name in ("world-ipv4", "world-ipv6"):
            label = WORLD4 if name == "world-ipv4" else WORLD6
            return self._set(label in entry.labels for entry in self.entries)
        if name == "cluster":
            return self._set(e.member is not None and e.member.cluster == self.cluster for e in self.entries)
        if name == "remote-node":
            return self._set(REMOTE_NODE in entry.labels for entry in self.entries)
        return 0
