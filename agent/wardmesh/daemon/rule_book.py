# SPDX-License-Identifier: Apache-2.0
"""Which rule decides about a peer and a port of this host, by the policies in force."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from wardmesh.daemon.firewall_tables import CIDR_IDENTITY, engine_of
from wardmesh.model.fleetmap import FleetMap, Network
from wardmesh.model.identity import identities
from wardmesh.policy.engine import Direction, Grant
from wardmesh.policy.files import parse_policies

WORLDS = {9: "world-ipv4", 10: "world-ipv6"}  # identities of who is nobody's entry
_ANSWERS = 4096  # that are remembered: the same questions come again and again


class RuleBook:
    """Of one member under one policy set; empty where the fleet does not know the member."""

    def __init__(self, files: Mapping[str, str], fleet: FleetMap | None, own: str) -> None:
        self._places: dict[str, int] = {}
        self._networks: dict[Network, int] = {}
        self._directions: dict[bool, Direction] = {}
        self._answers: dict[tuple[str, bool, int, int], Grant | None] = {}
        if fleet is None:
            return
        engine = engine_of(parse_policies(sorted(files.items()), "policies"), fleet)
        if own not in engine.endpoints:
            return
        for name, number in identities(fleet).items():
            place = engine.universe.place_of(engine.endpoints[name].addresses[0])
            self._places.setdefault(str(number), place)
        for place, entry in enumerate(engine.universe.entries):
            self._networks[entry.network] = place
            if entry.member is None:
                whole = entry.network.prefixlen == 0
                word = f"world-ipv{entry.network.version}" if whole else str(CIDR_IDENTITY + place)
                self._places[word] = place
        self._directions = {way: engine.direction(engine.endpoints[own], way) for way in (True, False)}

    def grant(self, peer: str, ingress: bool, protocol: int, port: int) -> Grant | None:
        """The item that decides about a flow to this port, or ICMP type; None where none speaks."""
        key = (peer, ingress, protocol, port)
        if key in self._answers:
            return self._answers[key]
        held, place = self._directions.get(ingress), self._places.get(peer)
        if held is None or place is None:
            return None
        if len(self._answers) < _ANSWERS:
            self._answers[key] = held.decide(place, protocol, port)[1]
            return self._answers[key]
        return held.decide(place, protocol, port)[1]

    def grants(self, ingress: bool) -> tuple[Grant, ...]:
        """Every item that speaks about one direction of this host."""
        held = self._directions.get(ingress)
        return held.grants if held else ()

    def enforced(self, ingress: bool) -> bool:
        """Is what nothing allows denied?"""
        held = self._directions.get(ingress)
        return held is not None and held.enforced

    def places(self, networks: Iterable[Network]) -> int:
        """These networks as a set of entries (bits); those that nobody knows are left out."""
        return _bits(self._networks[network] for network in networks if network in self._networks)

    def deciding(
        self, whole: int, ingress: bool, protocol: int, port: int
    ) -> Iterator[tuple[Grant | None, bool]]:
        """The items that decide about flows of a set of entries to this port, None standing for no item, and
        whether each decides for all of them. Denials come before what they overrule, see Direction.decide."""
        left = whole
        for deny in (True, False):
            spoken = [g for g in self.grants(ingress) if g.item.deny is deny and g.covers(protocol, port)]
            found = [(grant, grant.peers & left) for grant in spoken if grant.peers & left]
            for grant, places in found:
                yield grant, places == whole
            for _grant, places in found:
                left &= ~places
        if left:
            yield None, left == whole

    def behind(
        self, peers: Iterable[str], ingress: bool, protocol: int, ports: tuple[int, int]
    ) -> Iterator[Grant | None]:
        """The same for these peers and the ports from the first to the last; ports that no rule tells apart
        are asked once."""
        first, last = ports
        ranges = [r for g in self.grants(ingress) for r in g.ranges or () if r.protocol == protocol]
        edges = {first, *(edge for r in ranges for edge in (r.first, r.last + 1) if first < edge <= last)}
        places = _bits(self._places[peer] for peer in peers if peer in self._places)
        for port in sorted(edges):
            yield from (grant for grant, _whole in self.deciding(places, ingress, protocol, port))


def _bits(places: Iterable[int]) -> int:
    found = 0
    for place in places:
        found |= 1 << place
    return found
