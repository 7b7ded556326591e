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
from wardmesh.policy.compile import ICMP_LAST
from wardmesh.policy.engine import is_icmp
from wardmesh.policy.ports import LAST_PORT


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
        """The rules behind a line, each once: its peers and its ports may have it from different ones. Both
        are as PolicyLine has them."""
        port, _slash, protocol = ports.partition("/")
        if protocol not in PROTOCOLS:
            return []
        number = PROTOCOLS[protocol]
        first, _dash, last = port.partition("-")
        whole = (0, ICMP_LAST if is_icmp(number) else LAST_PORT)
        span = whole if port == "ANY" else (int(first), int(last or first))
        grants = self._book.behind(peers, direction == "ingress", number, span)
        return list(dict.fromkeys(grant.name if grant else "no default deny" for grant in grants))
