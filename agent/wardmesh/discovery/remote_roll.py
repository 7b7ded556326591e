# SPDX-License-Identifier: Apache-2.0
"""Pure: from the records of another cluster's store to its members, identities and pods.

The checks are upstream's for remote clusters: a number lies in the cluster's own range, an identity names its
cluster. Labels by which the agent itself names clusters and hosts are dropped: nobody is another by a label.
A record that cannot be read does not replace a good one. Every kind has a limit; what is beyond is skipped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from wardmesh.discovery.backend import Change, Entry
from wardmesh.discovery.jsonvalues import reject
from wardmesh.discovery.keys import NODES, NUMBERS, kind_prefixes
from wardmesh.discovery.learned import Learned, Pod
from wardmesh.discovery.records import read_identity, read_ip
from wardmesh.discovery.roll import Roll
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address
from wardmesh.model.labels import IMPLICIT

MOST_NODES, MOST_IDENTITIES, MOST_PODS = 5_000, 16_384, 32_768
MISSING = 30.0  # seconds of connection after which a node that a listing does not have is gone
_MOST_SKIPPED = 4096  # records whose reason is kept
_MOST_LABELS = 128
_POLICY_CLUSTER = "io.cilium.k8s.policy.cluster"
_RESERVED = 256  # numbers below are hosts, health endpoints and the like: no pods


@dataclass
class RemoteRoll:
    """What one other cluster is made of. grace: seconds that the addresses of a lost node stay sealed."""

    cluster: Cluster
    grace: float
    cached: bool = False
    labels: dict[int, frozenset[str]] = field(default_factory=dict)
    pods: dict[Address, Pod] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    changed: bool = False

    def __post_init__(self) -> None:
        self.prefixes = kind_prefixes(self.cluster.name, cached=self.cached)
        self.nodes = Roll(
            self.cluster, MISSING, self.grace, prefix=self.prefixes[NODES], foreign=True, most=MOST_NODES
        )

    def restore(self, found: Learned) -> None:
        """Go on from what was learned before."""
        if found.nodes.cluster == self.cluster:
            self.nodes.restore(found.nodes)
            self.labels = dict(found.identities)
            self.pods = {pod.address: pod for pod in found.pods}

    def found(self) -> Learned:
        """What is known now; a pod whose labels are not known is nobody yet."""
        pods = tuple(pod for pod in self.pods.values() if pod.identity in self.labels)
        used = {pod.identity for pod in pods}
        return Learned(
            self.nodes.found(),
            {number: self.labels[number] for number in sorted(used)},
            tuple(sorted(pods, key=lambda pod: (pod.address.version, int(pod.address)))),
        )

    @property
    def unresolved(self) -> int:
        """Pods whose labels are not known."""
        return sum(pod.identity not in self.labels for pod in self.pods.values())

    def snapshot(self, kind: str, entries: Iterable[Entry]) -> None:
        """Everything of one kind that the store has."""
        if kind == NODES:
            self.nodes.snapshot(entries)
            return
        self.skipped = {
            key: why for key, why in self.skipped.items() if not key.startswith(self.prefixes[kind])
        }
        before = (dict(self.labels), dict(self.pods))
        keep = set()
        for entry in entries:
            self._put(kind, entry)
            keep.add(self._name(kind, entry.key))
        if kind == NUMBERS:
            self.labels = {number: held for number, held in self.labels.items() if str(number) in keep}
        else:
            self.pods = {address: pod for address, pod in self.pods.items() if str(address) in keep}
        self.changed = self.changed or before != (self.labels, self.pods)

    def take(self, kind: str, change: Change) -> None:
        """One change."""
        if kind == NODES:
            if change.entry is None:
                self.nodes.gone(change.key)
            else:
                self.nodes.put(change.entry)
        elif change.entry is not None:
            self._put(kind, change.entry)
        else:
            self._gone(kind, change.key)

    def tick(self, seconds: float) -> None:
        """So much time passed with a connection."""
        self.nodes.tick(seconds)

    def taken(self) -> bool:
        """Did anything change since the last call?"""
        found = self.changed or self.nodes.changed
        self.changed = self.nodes.changed = False
        return found

    def _name(self, kind: str, key: str) -> str:
        return key[len(self.prefixes[kind]) :]

    def _put(self, kind: str, entry: Entry) -> None:
        self.skipped.pop(entry.key, None)
        take: Callable[[Entry], None] = self._identity if kind == NUMBERS else self._pair
        try:
            take(entry)
        except WardmeshError as error:
            if len(self.skipped) < _MOST_SKIPPED:
                self.skipped[entry.key] = error.why or error.what

    def _identity(self, entry: Entry) -> None:
        number = _number(self._name(NUMBERS, entry.key))
        if number is None:
            raise reject(entry.key, "no identity's number")
        self._in_range(number, entry.key)
        labels = read_identity(entry.key, entry.value)
        if f"k8s:{_POLICY_CLUSTER}={self.cluster.name}" not in labels:
            raise reject(entry.key, f"its labels do not name the cluster {self.cluster.name}")
        if len(labels) > _MOST_LABELS:
            raise reject(entry.key, f"{len(labels)} labels, at most {_MOST_LABELS}")
        if number not in self.labels and len(self.labels) >= MOST_IDENTITIES:
            raise reject(entry.key, f"more than {MOST_IDENTITIES} identities")
        good = frozenset(label for label in labels if self._may_say(label))
        if self.labels.get(number) != good:
            self.labels[number], self.changed = good, True

    def _may_say(self, label: str) -> bool:
        """Labels of the agent's own, but for the cluster's right name, are not taken from others."""
        name, _equals, value = label.partition("=")
        source, _colon, key = name.partition(":")
        if key in (_POLICY_CLUSTER, *IMPLICIT):
            return key != "node" and value == self.cluster.name
        return source != "reserved"

    def _in_range(self, number: int, key: str) -> None:
        first = self.cluster.id << 16
        if not first <= number < first + (1 << 16):
            raise reject(key, f"the identity {number} is none of a cluster with id {self.cluster.id}")

    def _pair(self, entry: Entry) -> None:
        pair = read_ip(entry.key, entry.value)
        address = pair.network.network_address
        if not pair.bare:
            return  # a subnet, which is its host's
        if pair.identity < _RESERVED:
            self._drop(address)  # a host's own
            return
        self._in_range(pair.identity, entry.key)
        if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
            raise reject(entry.key, f"{address} cannot be a pod's address")
        if address not in self.pods and len(self.pods) >= MOST_PODS:
            raise reject(entry.key, f"more than {MOST_PODS} addresses")
        pod = Pod(address, pair.identity, pair.host, pair.pod)
        if self.pods.get(address) != pod:
            self.pods[address], self.changed = pod, True

    def _drop(self, address: Address) -> None:
        if self.pods.pop(address, None) is not None:
            self.changed = True

    def _gone(self, kind: str, key: str) -> None:
        self.skipped.pop(key, None)
        text = self._name(kind, key)
        if kind == NUMBERS:
            number = _number(text)
            if number is not None and self.labels.pop(number, None) is not None:
                self.changed = True
            return
        try:
            self._drop(ipaddress.ip_address(text))
        except ValueError:
            return  # no address: it was never taken in


def _number(text: str) -> int | None:
    """An identity as its key has it."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
