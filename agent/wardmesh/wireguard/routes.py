# SPDX-License-Identifier: Apache-2.0
"""Pure: the routes and rules that lead a member's traffic into the tunnel.

Rules of both families, priorities 90..99:
  90  fwmark MARK           goto 99    WireGuard's own packets leave by the ordinary tables: no loop
  91  from <own subnet>     table      what a subnet behind this host sends to members
  92  iif <guarded device>  goto 99    what others route through this host is not the host's
  95  everything else       table      members through the tunnel, the rest is not in that table
  99  nop                              where the jumps land; the operator's own rules go on from here
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from wardmesh.model.fleetmap import Address, Member, Network
from wardmesh.wireguard.devices import Path
from wardmesh.wireguard.mtu import route_mtu

TABLE = 51871
PROTOCOL = 200  # who made a route or rule, as `ip route` and `ip rule` show it
GOTO_END, FROM_SUBNET, FROM_DEVICE, LOOKUP, END = 90, 91, 92, 95, 99
PRIORITIES = range(GOTO_END, END + 1)


@dataclass(frozen=True)
class Route:
    """A member's network through the tunnel. source: of our own packets; mtu 0: the device's."""

    network: Network
    source: Address | None
    mtu: int = 0


@dataclass(frozen=True)
class Rule:
    """One of our rules; what it does follows from its priority. family: 4 or 6."""

    family: int
    priority: int
    subnet: Network | None = None
    device: str = ""

    def __str__(self) -> str:
        kind = {GOTO_END: "mark", LOOKUP: "lookup", END: "end"}.get(self.priority, "")
        return f"ipv{self.family} {self.priority} {self.subnet or self.device or kind}"


@dataclass(frozen=True)
class RoutingDesired:
    """What the tables should hold. ifindex: the tunnel device; routes by network; rules of both families;
    elsewhere: the device of the networks whose routes lead through another one (the second tunnel's)."""

    ifindex: int
    routes: Mapping[Network, Route] = field(default_factory=dict)
    rules: frozenset[Rule] = frozenset()
    elsewhere: Mapping[Network, int] = field(default_factory=dict)

    def device(self, network: Network) -> int:
        """The index of the device that this network's route leads through."""
        return self.elsewhere.get(network, self.ifindex)


def desired_rules(
    own_subnets: Iterable[Network], devices: Iterable[str], families: Collection[int] = (4, 6)
) -> frozenset[Rule]:
    """own_subnets: the networks behind this host; devices: names of the guarded devices."""
    rules = {Rule(family, priority) for family in families for priority in (GOTO_END, LOOKUP, END)}
    rules |= {Rule(net.version, FROM_SUBNET, subnet=net) for net in own_subnets if net.version in families}
    rules |= {Rule(family, FROM_DEVICE, device=name) for name in devices for family in families}
    return frozenset(rules)


def desired_routes(
    members: Iterable[Member],
    own: Member,
    paths: Mapping[Address, Path | None],
    interface_mtu: int,
    families: Collection[int] = (4, 6),
) -> dict[Network, Route]:
    """The routes of these members (those that go into the tunnel now), by network.

    paths: how the host reaches each member's addresses and endpoint, see addresses_to_look_up. A network
    of a family in which this host is no member gets no route: no answer could come back.
    """
    routes = {}
    for member in members:
        outer = paths.get(endpoint_address(member))
        mtu = route_mtu(outer.mtu, interface_mtu) if outer is not None else 0
        for network in member.networks():
            if network.version not in families:
                continue
            source = _source(network, member, own, paths)
            if source is not None or any(net.version == network.version for net in own.allowed_ips):
                routes[network] = Route(network, source, mtu)
    return routes


def endpoint_address(member: Member) -> Address:
    """Where the tunnel's packets for that member go."""
    for address in member.addresses:
        if str(address) == member.endpoint.host:
            return address
    return ipaddress.ip_address(member.endpoint.host)


def addresses_to_look_up(members: Iterable[Member]) -> list[Address]:
    """What desired_routes wants to know paths to."""
    found = []
    for member in members:
        found += [*member.addresses, endpoint_address(member)]
    return list(dict.fromkeys(found))


def _source(
    network: Network, member: Member, own: Member, paths: Mapping[Address, Path | None]
) -> Address | None:
    """The registered address that the main table would use towards the member's address of that family."""
    candidates = [address for address in own.addresses if address.version == network.version]
    target = next((a for a in member.addresses if a in network), None) or next(
        (a for a in member.addresses if a.version == network.version), None
    )
    path = paths.get(target) if target is not None else None
    if path is not None and path.source in candidates:
        return path.source
    return candidates[0] if candidates else None
