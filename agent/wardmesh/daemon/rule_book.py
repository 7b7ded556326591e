# SPDX-License-Identifier: Apache-2.0
"""Which rule decides about a peer and a port of this host, by the policies in force."""

from __future__ import annotations

from collections.abc import Mapping

from wardmesh.daemon.firewall_tables import CIDR_IDENTITY, engine_of
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.identity import identities
from wardmesh.policy.engine import Direction, Grant
from wardmesh.policy.files import parse_policies

WORLDS = {9: "world-ipv4", 10: "world-ipv6"}  # identities of who is nobody's entry
_ANSWERS = 4096  # that are remembered: the same questions come again and again


class RuleBook:
    """Of one member under one policy set; empty where the fleet does not know the member."""

    def __init__(self, files: Mapping[str, str], fleet: FleetMap | None, own: str) -> None:
        self._places: dict[str, int] = {}
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
            if entry.member is None:
                whole = entry.network.prefixlen == 0
                word = f"world-ipv{entry.network.version}" if whole else str(CIDR_IDENTITY + place)
                self._places[word] = place
        self._directions = {way: engine.direction(engine.endpoints[own], way) for way in (True, False)}

    def knows(self, peer: str) -> bool:
        """Is this identity, or world-ipv4, world-ipv6, somebody that rules could speak about?"""
        return peer in self._places

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
