# SPDX-License-Identifier: Apache-2.0
"""Which rule of which file decides about a line of the kernel's tables, by the policies in force."""

from __future__ import annotations

from wardmesh.api import client
from wardmesh.cli.labels import own_name
from wardmesh.daemon.firewall_tables import CIDR_IDENTITY, engine_of
from wardmesh.host.paths import Paths
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.identity import identities
from wardmesh.policy.cases import PROTOCOLS
from wardmesh.policy.files import parse_policies


class RuleNames:
    """Built once from what the agent has in force; without a running agent every name is empty."""

    def __init__(self, paths: Paths, fleet: FleetMap | None) -> None:
        self._places: dict[str, int] = {}
        self._directions = {}
        if fleet is None or not client.listens(paths.socket):
            return
        files = client.call(paths.socket, "GET", "/v1/policy")["files"]
        own = own_name(paths)
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
        self._directions = {
            "ingress": engine.direction(engine.endpoints[own], True),
            "egress": engine.direction(engine.endpoints[own], False),
        }

    def of(self, peer: str, direction: str, ports: str) -> str:
        """The rule behind a verdict; peer and ports as PolicyLine has them."""
        held, place = self._directions.get(direction), self._places.get(peer)
        port, _slash, protocol = ports.partition("/")
        if held is None or place is None or protocol not in PROTOCOLS:
            return ""
        first = "0" if port == "ANY" else port.partition("-")[0]
        _action, grant = held.decide(place, PROTOCOLS[protocol], int(first))
        return grant.name if grant else "no default deny"
