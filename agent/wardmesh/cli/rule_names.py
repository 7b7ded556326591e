# SPDX-License-Identifier: Apache-2.0
"""Which rule of which file decides about a line of the kernel's tables, by the policies in force."""

from __future__ import annotations

from collections.abc import Iterable

from wardmesh.api import client
from wardmesh.cli.labels import own_name
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.host.paths import Paths
from wardmesh.model.fleetmap import FleetMap
from wardmesh.policy.cases import PROTOCOLS


def rules_in_force(paths: Paths, fleet: FleetMap | None) -> RuleNames:
    """Of what the agent has in force; where none runs, no line has a rule."""
    running = client.listens(paths.socket)
    files = client.call(paths.socket, "GET", "/v1/policy")["files"] if running else {}
    return RuleNames(RuleBook(files, fleet if running else None, own_name(paths)))


class RuleNames:
    """Names of the rules of a book, for lines of the kernel's tables."""

    def __init__(self, book: RuleBook) -> None:
        self._book = book

    def of(self, peers: Iterable[str], direction: str, ports: str) -> list[str]:
        """The rules behind a line, each once: its peers may have it from different ones. peers and ports as
        PolicyLine has them."""
        port, _slash, protocol = ports.partition("/")
        if protocol not in PROTOCOLS:
            return []
        first = "0" if port == "ANY" else port.partition("-")[0]
        known = [peer for peer in peers if self._book.knows(peer)]
        grants = (
            self._book.grant(peer, direction == "ingress", PROTOCOLS[protocol], int(first)) for peer in known
        )
        return list(dict.fromkeys(grant.name if grant else "no default deny" for grant in grants))
