# SPDX-License-Identifier: Apache-2.0
"""Pure: the map of the own cluster and what is known of the others, as one map.

Rules, the same on every host of a cluster:
  1. Nothing that the own cluster has (key, address, endpoint, subnet) is another cluster's, departed members
     included. Whoever claims it is refused as a whole.
  2. A cluster whose number is the own one's or that of another in the list is refused as a whole. Numbers of
     the configuration count before those that a store says, then the order of the list.
  3. Among the clusters the earlier in the list has what both claim; inside of one, the older record.
  4. A pod is where its node's prefixes are, or behind the node that its record names.
  5. With `networks` everything lies in them; without, no prefix is wider than a /16, or a /48 of IPv6.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from wardmesh.discovery.clusters import Remote
from wardmesh.discovery.document import Claim
from wardmesh.discovery.learned import Learned, Pod
from wardmesh.discovery.merge import Owners, Refused, in_order, is_inside
from wardmesh.model.fleetmap import Address, FleetMap, Member, Network, Workload

WIDEST = {4: 16, 6: 48}
_MOST_NAMED = 100  # refused records of a cluster that are named; all are counted


@dataclass
class Joined:
    """What became of one cluster. id 0: not known yet; problem: why nothing of it is taken, or ""."""

    name: str
    id: int
    members: list[str] = field(default_factory=list)
    identities: set[int] = field(default_factory=set)
    pods: int = 0
    refused: int = 0
    named: list[Refused] = field(default_factory=list)
    problem: str = ""

    def refuse(self, name: str, why: str) -> None:
        """Count it; name the first ones."""
        self.refused += 1
        if len(self.named) < _MOST_NAMED:
            self.named.append(Refused(name, why))

    def told(self) -> list[Refused]:
        """What to log: the cluster as a whole, or its first refused records."""
        return [Refused(f"cluster {self.name}", self.problem)] if self.problem else self.named


def join(
    fleet: FleetMap, remotes: Sequence[Remote], learned: Mapping[str, Learned], room: int
) -> tuple[FleetMap, tuple[Joined, ...]]:
    """The map in force, and what each cluster adds. room: networks that the kernel's maps hold for others."""
    joining = _Joining(fleet, room)
    numbers = _numbers(fleet, remotes, learned)
    rows = []
    for remote in remotes:
        found = learned.get(remote.name)
        if found is not None and remote.id not in (0, found.nodes.cluster.id):
            found = None  # of another number: from before the configuration changed
        number = remote.id or (found.nodes.cluster.id if found else 0)
        row = Joined(remote.name, number)
        rows.append(row)
        claims = [Claim(member, place) for place, member in enumerate(remote.members)]
        claims += in_order(found.nodes.claims.values()) if found else []
        owner = numbers.get(number, remote.name)
        if owner != remote.name:
            row.problem = f"it has id {number}, as the cluster {owner} has: nothing of it is taken"
            row.refused = len(claims) + (len(found.pods) if found else 0)
            continue
        joining.members(remote, claims, row)
        if found is not None:
            joining.pods(remote, found, row)
            joining.departed(item.claim for item in found.nodes.departed.values())
    return joining.result(), tuple(rows)


def _numbers(fleet: FleetMap, remotes: Sequence[Remote], learned: Mapping[str, Learned]) -> dict[int, str]:
    """Whose a number is."""
    numbers = {fleet.cluster.id: fleet.cluster.name}
    for remote in remotes:
        if remote.id:
            numbers.setdefault(remote.id, remote.name)
    for remote in remotes:
        if not remote.id and remote.name in learned:
            numbers.setdefault(learned[remote.name].nodes.cluster.id, remote.name)
    return numbers


class _Joining:
    def __init__(self, fleet: FleetMap, room: int) -> None:
        self._fleet = fleet
        self._room = room
        self._owners = Owners()
        self._found: dict[str, Member] = {}
        self._departed: list[Member] = []
        self._workloads: list[Workload] = []
        for member in (*fleet.members, *fleet.departed):
            self._owners.claim(member)

    def members(self, remote: Remote, claims: Iterable[Claim], row: Joined) -> None:
        """Those who conflict with nobody."""
        for claim in claims:
            member = claim.member
            why = _outside(member.networks(), remote.networks)
            if not why and len(member.networks()) > self._room:
                why = "the kernel's maps have no room for it (bpf.membersMax)"
            why = why or self._owners.claim(member)
            if why:
                row.refuse(member.name, why)
                continue
            self._found[member.name] = member
            self._room -= len(member.networks())
            row.members.append(member.name)

    def pods(self, remote: Remote, found: Learned, row: Joined) -> None:
        """Those that live behind a member of their cluster."""
        own = set(row.members)
        hosts = {address: name for name in row.members for address in self._found[name].addresses}
        extra: dict[str, list[Network]] = {}
        for pod in found.pods:
            owner = self._owners.owner(pod.address)
            if owner in own and not _in_pods(self._found[owner], pod.address, extra.get(owner, ())):
                continue  # its node's own address, or in a subnet behind it: that is said of the node already
            node, why = self._place(pod, owner, own, hosts, remote)
            if why:
                row.refuse(f"{remote.name}/{pod.name or pod.address}", why)
                continue
            if not owner:
                extra.setdefault(node, []).append(ipaddress.ip_network(pod.address))
            self._room -= 1
            labels = found.identities[pod.identity]
            name = pod.name or str(pod.address)
            self._workloads.append(Workload(pod.address, pod.identity, labels, remote.name, node, name))
            row.identities.add(pod.identity)
            row.pods += 1
        for name, networks in extra.items():
            self._found[name] = replace(self._found[name], pods=(*self._found[name].pods, *networks))

    def _place(
        self, pod: Pod, owner: str, own: set[str], hosts: Mapping[Address, str], remote: Remote
    ) -> tuple[str, str]:
        """The member that a pod lives behind, or why it is refused."""
        if owner and owner not in own:
            return "", f"address {pod.address} belongs to {owner}"
        if self._room < 1:
            return "", "the kernel's maps have no room for it (bpf.membersMax)"
        if owner:
            return owner, ""
        node = hosts.get(pod.host) if pod.host is not None else None
        if node is None:
            return "", f"address {pod.address} is behind no member of its cluster"
        network = ipaddress.ip_network(pod.address)
        why = _outside((network,), remote.networks)
        if not why:
            why = self._owners.claim(
                replace(self._found[node], pods=(network,), addresses=(), allowed_ips=())
            )
        return node, why

    def departed(self, claims: Iterable[Claim]) -> None:
        """Those whose addresses nobody has taken over."""
        for claim in in_order(claims):
            member = claim.member
            if member.name not in self._found and not self._owners.claim(member):
                self._departed.append(member)

    def result(self) -> FleetMap:
        """The map in force."""
        members = (*self._fleet.members, *self._found.values())
        departed = (*self._fleet.departed, *self._departed)
        return replace(
            self._fleet,
            members=tuple(sorted(members, key=lambda member: member.name)),
            departed=tuple(sorted(departed, key=lambda member: member.name)),
            workloads=tuple(self._workloads),
        )


def _in_pods(member: Member, address: Address, extra: Iterable[Network]) -> bool:
    network = ipaddress.ip_network(address)
    return address not in member.addresses and any(is_inside(network, o) for o in (*member.pods, *extra))


def _outside(networks: Iterable[Network], allowed: Sequence[Network]) -> str:
    """Why another cluster may not have these, "" where it may."""
    for network in networks:
        if allowed and not any(is_inside(network, outer) for outer in allowed):
            return f"{network} is outside of the networks of its cluster"
        if not allowed and network.prefixlen < WIDEST[network.version]:
            return f"{network} is wider than a /{WIDEST[network.version]}; name it in networks of its cluster"
    return ""
