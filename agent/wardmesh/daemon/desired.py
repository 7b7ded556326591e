# SPDX-License-Identifier: Apache-2.0
"""Pure: from configuration, map, state and what the host looks like to what the kernel should hold."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Optional

from wardmesh.daemon.state import ModeState
from wardmesh.datapath.contract import MEMBER, SELF, STRICT
from wardmesh.model.fleetmap import Address, FleetMap, Member, Network
from wardmesh.model.identity import REMOTE_NODE, identities
from wardmesh.wireguard.backend import PeerConfig
from wardmesh.wireguard.devices import Path
from wardmesh.wireguard.mtu import interface_mtu
from wardmesh.wireguard.peers import desired_peers
from wardmesh.wireguard.routes import endpoint_address

Paths = Mapping[Address, Optional[Path]]  # how the host reaches an address outside the tunnel


@dataclass(frozen=True)
class Mesh:
    """The fleet as this host sees it; made once for each map.

    peers: WireGuard peers by public key; names: member names by public key; numbers: identities by name;
    by_themselves: names of members, this host perhaps among them, that change their keys without a playbook.
    """

    fleet: FleetMap
    own: Member
    others: tuple[Member, ...]
    peers: Mapping[str, PeerConfig]
    names: Mapping[str, str]
    numbers: Mapping[str, int]
    by_themselves: frozenset[str] = frozenset()

    @property
    def member_names(self) -> frozenset[str]:
        """Everybody but this host."""
        return frozenset(member.name for member in self.others)

    @property
    def sealable(self) -> frozenset[str]:
        """Whose seal is remembered: the members', and that of those who departed a while ago."""
        return self.member_names.union(member.name for member in self.fleet.departed)


def mesh_of(fleet: FleetMap, own: Member, by_themselves: frozenset[str] = frozenset()) -> Mesh:
    """The view of one member."""
    return Mesh(
        fleet,
        own,
        tuple(member for member in fleet.members if member.name != own.name),
        desired_peers(fleet, own.name),
        {member.key: member.name for member in fleet.members},
        identities(fleet),
        by_themselves,
    )


def guard_entries(mesh: Mesh, state: ModeState) -> dict[Network, tuple[int, int]]:
    """Identity and flags of every network of the fleet."""
    entries = {}
    for member in mesh.fleet.members:
        if member.name == mesh.own.name:
            flags = MEMBER | SELF
        else:
            flags = MEMBER | STRICT if state.seals(member.name) else MEMBER
        for network in member.networks():
            entries[network] = (mesh.numbers[member.name], flags)
    flags_of = {
        member.name: MEMBER | STRICT if state.seals(member.name) else MEMBER for member in mesh.others
    }
    for workload in mesh.fleet.workloads:
        flags = flags_of.get(workload.node, MEMBER)
        entries[ipaddress.ip_network(workload.address)] = (workload.identity, flags)
    for member in mesh.fleet.departed:
        if state.seals(member.name):  # no tunnel and no peer any more, and nothing plain by accident
            entries.update(dict.fromkeys(member.networks(), (REMOTE_NODE, MEMBER | STRICT)))
    return entries


def members_in_tunnel(mesh: Mesh, state: ModeState, is_up: Callable[[Member], bool]) -> tuple[Member, ...]:
    """Who gets routes now: sealed members always, the others while their tunnel is up."""
    return tuple(m for m in mesh.others if state.seals(m.name) or is_up(m))


def tunnel_mtu(mesh: Mesh, paths: Paths, configured: int | None, current: int) -> int:
    """MTU of the tunnel device in bytes; while no member can be reached at all, the current one stays."""
    found = [paths.get(endpoint_address(member)) for member in mesh.others]
    mtus = [path.mtu for path in found if path is not None]
    if not mtus and not configured and current:
        return current
    return interface_mtu(mtus, configured)


def warnings(mesh: Mesh, listen_port: int) -> list[str]:
    """What is allowed, but hardly meant."""
    own = mesh.own.endpoint
    if own.port != listen_port and own.host in map(str, mesh.own.addresses):
        return [f"the members send to {own}, but encryption.listenPort of this host is {listen_port}"]
    return []
