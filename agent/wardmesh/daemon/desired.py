# SPDX-License-Identifier: Apache-2.0
"""Pure: from configuration, map, state and what the host looks like to what the kernel should hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wardmesh.daemon.state import ModeState
from wardmesh.datapath.contract import MEMBER, SELF, STRICT
from wardmesh.model.fleetmap import Address, FleetMap, Member, Network
from wardmesh.model.identity import identities
from wardmesh.wireguard.routing import TunnelRoute
from wardmesh.wireguard.tunnel import OVERHEAD


@dataclass(frozen=True)
class Path:
    """How the host reaches a peer without the tunnel: MTU of that device, source by IP version."""

    mtu: int
    source: Mapping[int, Address | None]


def guard_entries(fleet: FleetMap, own: Member, state: ModeState) -> dict[Network, tuple[int, int]]:
    """Identity and flags of every network of the fleet."""
    numbers = identities(fleet)
    entries = {}
    for member in fleet.members:
        flags = MEMBER
        if member.key == own.key:
            flags |= SELF
        elif state.mode == "strict" and member.name in state.sealed:
            flags |= STRICT
        for network in member.networks():
            entries[network] = (numbers[member.name], flags)
    return entries


def tunnel_mtu(paths: Mapping[str, Path], configured: int | None) -> int:
    """MTU of the tunnel: the configured one, else the largest that a path allows (1500 - 80 with none)."""
    return configured or max((path.mtu - OVERHEAD for path in paths.values()), default=1500 - OVERHEAD)


def tunnel_routes(
    fleet: FleetMap,
    own: Member,
    state: ModeState,
    up: Callable[[str], bool],
    paths: Mapping[str, Path],
    mtu: int,
) -> dict[Network, TunnelRoute]:
    """Routes to the networks of every member that is sealed, or whose tunnel is up."""
    routes = {}
    for member in fleet.members:
        if member.key == own.key:
            continue
        sealed = state.mode == "strict" and member.name in state.sealed
        if not sealed and not up(member.key):
            continue
        path = paths.get(member.name, Path(mtu + OVERHEAD, {}))
        smaller = path.mtu - OVERHEAD if path.mtu - OVERHEAD < mtu else 0
        for network in member.networks():
            source = path.source.get(network.version) or first_of(own, network.version)
            if source in own.addresses or source is None:
                routes[network] = TunnelRoute(network, source, smaller)
            else:  # an address that the peers do not know as ours would be refused at the far end
                routes[network] = TunnelRoute(network, first_of(own, network.version), smaller)
    return routes


def first_of(member: Member, version: int) -> Address | None:
    """The first address of an IP version."""
    return next((address for address in member.addresses if address.version == version), None)
