# SPDX-License-Identifier: Apache-2.0
"""Who an address is: members by the fleet map, the reserved identities for everybody else."""

from __future__ import annotations

import ipaddress
import secrets

from wardmesh.model.fleetmap import Address, FleetMap, Member, Network
from wardmesh.model.identity import HOST, REMOTE_NODE, RESERVED, WORLD, identities, member_labels
from wardmesh.observe.flow import Flow, FlowEvent, Party, sorted_labels

_CACHED = 65536  # strangers whose party is remembered; beyond it the memory is emptied


class Names:
    """Names of the ends of flows under one fleet map. own: the name of the member that runs this."""

    def __init__(self, fleet: FleetMap | None, own: str) -> None:
        self.fleet = fleet
        self.own = own
        self.cluster = fleet.cluster.name if fleet else "default"
        self.node_name = f"{self.cluster}/{own}" if own else self.cluster
        self._numbers = identities(fleet) if fleet else {}
        self._members: dict[Address, Party] = {}
        self._subnets: dict[int, dict[Network, Party]] = {}
        self._strangers: dict[tuple[Address, int], Party] = {}
        self.by_name: dict[str, Member] = {member.name: member for member in fleet.members} if fleet else {}
        self.node_labels: tuple[str, ...] = ()
        for member in self.by_name.values():
            self._enter(member)
        self._pods: dict[Address, Party] = {}
        for workload in fleet.workloads if fleet else ():
            labels = sorted_labels(workload.labels)
            self._pods[workload.address] = Party(workload.identity, workload.name, workload.cluster, labels)
        if own in self.by_name:
            given = self.by_name[own].labels
            self.node_labels = tuple(sorted(f"{key}={value}" for key, value in given.items()))

    def _enter(self, member: Member) -> None:
        reserved = "reserved:host" if member.name == self.own else "reserved:remote-node"
        party = Party(
            self._numbers[member.name],
            member.name.rpartition("/")[2],
            member.cluster.name if member.cluster else self.cluster,
            sorted_labels(member_labels(member, self.cluster) | {reserved}),
            (member.name,) if "." in member.name else (),
        )
        for address in member.addresses:
            self._members[address] = party
        for network in member.allowed_ips:
            self._subnets.setdefault(network.prefixlen, {})[network] = party

    def party(self, address: Address, identity: int = 0) -> Party:
        """Who it is. identity: as the kernel says, which wins over the map's number; 0: it said nothing."""
        known = self._members.get(address) or self._pods.get(address)
        if known is not None and identity in (0, known.identity, HOST, REMOTE_NODE):
            return known
        key = (address, identity)
        found = self._strangers.get(key)
        if found is None:
            if len(self._strangers) >= _CACHED:
                self._strangers.clear()
            found = self._strangers[key] = self._stranger(known, address, identity)
        return found

    def _stranger(self, known: Party | None, address: Address, identity: int) -> Party:
        known = known or self._behind(address)
        if known is not None:
            return known._replace(identity=identity) if identity else known
        number = identity or (HOST if address.is_loopback else WORLD)
        word = RESERVED.get(number)
        return Party(number, "", "", (f"reserved:{word}",) if word else ())

    def _behind(self, address: Address) -> Party | None:
        """The member whose subnet it is in; the longest prefix wins."""
        for length in sorted(self._subnets, reverse=True):
            if length <= address.max_prefixlen:
                network = ipaddress.ip_network((address, length), strict=False)
                if network in self._subnets[length]:
                    return self._subnets[length][network]
        return None

    def flow(self, event: FlowEvent, uuid: str) -> Flow:
        """The event with these names."""
        return Flow(
            event,
            self.party(event.source, event.source_identity),
            self.party(event.destination, event.destination_identity),
            uuid,
            f"{self.cluster}/{event.node}" if event.node else self.node_name,
            self.node_labels,
        )

    def addresses(self) -> frozenset[Address]:
        """Every member's addresses."""
        return frozenset(self._members)


class Namer:
    """Gives events the names that are right now, and a number that no other has."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._prefix = secrets.token_hex(10)
        self._count = 0

    def flow(self, event: FlowEvent) -> Flow:
        """The event with its names as they are now."""
        return self.names.flow(event, self.uuid(self.take(1)))

    def take(self, count: int) -> int:
        """The first of so many numbers."""
        first = self._count + 1
        self._count += count
        return first

    def uuid(self, number: int) -> str:
        """What a client knows the event of a number by."""
        text = f"{self._prefix}{number & 0xFFFFFFFFFFFF:012x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"
