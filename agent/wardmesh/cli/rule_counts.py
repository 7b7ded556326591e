# SPDX-License-Identifier: Apache-2.0
"""How many flows each rule in force has decided on this host: the kernel's counters, told by rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wardmesh.api import client
from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.labels import own_name
from wardmesh.cli.local import read_config
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.datapath.fw_view import Judged
from wardmesh.datapath.open_pinned import open_firewall
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.policy.engine import Grant

TRIES = 3  # as often is a policy asked for that changes while it is read
WAYS = (("ingress", True), ("egress", False))


@dataclass(frozen=True)
class RuleCount:
    """flows: decided by this rule, new ones and known ones that were judged again after the change; at_most:
    as many more could be its own, where the map of rows was too small to tell its peers from others'."""

    file: str
    namespace: str
    name: str
    rule: str
    direction: str
    verdict: str
    flows: int
    at_most: int

    def document(self) -> dict[str, Any]:
        """In JSON."""
        return {
            "file": self.file,
            "namespace": self.namespace,
            "name": self.name,
            "rule": self.rule,
            "direction": self.direction,
            "verdict": self.verdict,
            "flows": self.flows,
            "atMost": self.at_most,
        }


def count_rules(book: RuleBook, judged: Iterable[Judged]) -> list[RuleCount]:
    """Every rule that speaks about this host, in the order of the files, and last what no rule spoke about.

    A flow counts for every rule that decides it: those that allow it, unless some deny it; then those.
    """
    exact: dict[tuple[str, str], int] = {}
    unsure: dict[tuple[str, str], int] = {}
    places: dict[int, int] = {}
    for cell in judged:
        if cell.row not in places:
            places[cell.row] = book.places(cell.networks)
        found = book.deciding(places[cell.row], cell.direction == "ingress", cell.protocol, cell.port)
        for key, whole in {((g.name if g else ""), cell.direction): whole for g, whole in found}.items():
            counts = exact if whole else unsure
            counts[key] = counts.get(key, 0) + cell.flows
    rows = []
    for direction, ingress in WAYS:
        listed: dict[str, Grant | None] = {grant.name: grant for grant in book.grants(ingress)}
        for name, grant in {**listed, "": None}.items():
            flows = exact.get((name, direction), 0)
            most = flows + unsure.get((name, direction), 0)
            rows.append(_row(grant, direction, book.enforced(ingress), flows, most))
    return rows


def _row(grant: Grant | None, direction: str, enforced: bool, flows: int, most: int) -> RuleCount:
    if grant is None:
        rule, verdict = ("default deny", "deny") if enforced else ("no default deny", "allow")
        return RuleCount("", "", "", rule, direction, verdict, flows, most)
    policy, item = grant.policy, grant.item
    verdict = "deny" if item.deny else "allow"
    return RuleCount(policy.source, policy.namespace, policy.name, item.path, direction, verdict, flows, most)


def policy_with_counts(paths: Paths) -> dict[str, Any]:
    """The agent's answer about its policies, with its rules and their counts under "rules".

    Where the counters cannot be read, countsProblem says why: who may see files may not see maps.
    """
    for _turn in range(TRIES):
        answer = client.call(paths.socket, "GET", "/v1/policy")
        try:
            with open_firewall(paths, read_config(paths.config, needed=False)) as wall:
                judged, generation = wall.judged(), wall.generation()
        except (OSError, WardmeshError) as error:
            return {**answer, "rules": [], "countsProblem": str(error)}
        if generation == answer["revision"]:
            book = RuleBook(answer["files"], fleet_in_force(paths), own_name(paths))
            return {**answer, "rules": [row.document() for row in count_rules(book, judged)]}
    return {**answer, "rules": [], "countsProblem": "the policies change while they are read"}
