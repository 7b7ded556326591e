# SPDX-License-Identifier: Apache-2.0
"""Which rule of which file decides about a line of the kernel's tables, by the policies in force."""

from __future__ import annotations

from wardmesh.api import client
from wardmesh.cli.labels import own_name
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.host.paths import Paths
from wardmesh.model.fleetmap import FleetMap
from wardmesh.policy.cases import PROTOCOLS


class RuleNames:
    """Built once from what the agent has in force; without a running agent every name is empty."""

    def __init__(self, paths: Paths, fleet: FleetMap | None) -> None:
        running = client.listens(paths.socket)
        files = client.call(paths.socket, "GET", "/v1/policy")["files"] if running else {}
        self._book = RuleBook(files, fleet if running else None, own_name(paths))

    def of(self, peer: str, direction: str, ports: str) -> str:
        """The rule behind a verdict; peer and ports as PolicyLine has them."""
        port, _slash, protocol = ports.partition("/")
        if protocol not in PROTOCOLS or not self._book.knows(peer):
            return ""
        first = "0" if port == "ANY" else port.partition("-")[0]
        grant = self._book.grant(peer, direction == "ingress", PROTOCOLS[protocol], int(first))
        return grant.name if grant else "no default deny"
