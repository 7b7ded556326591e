# SPDX-License-Identifier: Apache-2.0
"""Verdict tables: a fleet, policies and flows with the expected verdicts, one case to a line of JSON.

The form is that of the tables in tests/conformance/tables, which came from Cilium's own engine.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address
from wardmesh.policy.documents import parse_document, policy_set
from wardmesh.policy.engine import Action, Engine
from wardmesh.policy.fleet import Endpoint, implicit_labels
from wardmesh.policy.ports import ICMP, ICMP6, SCTP, TCP, UDP

PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP, "ICMP": ICMP, "ICMPv6": ICMP6}


@dataclass(frozen=True)
class Query:
    """One flow. source and target: member names or addresses; port: the type for ICMP."""

    source: str
    target: str
    protocol: str
    port: int
    egress: str
    ingress: str


@dataclass(frozen=True)
class Difference:
    """A verdict that is not the expected one."""

    case: str
    query: Query
    direction: str
    expected: str
    found: str
    rule: str

    def __str__(self) -> str:
        flow = f"{self.query.source} -> {self.query.target} {self.query.protocol}/{self.query.port}"
        said = f"expected {self.expected}, found {self.found} ({self.rule})"
        return f"{self.case}: {flow} {self.direction}: {said}"


class Case:
    """One line of a table."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        try:
            self.name = str(data["name"])
            self.cluster = str(data["cluster"])
            self.endpoints = {name: _endpoint(name, node) for name, node in data["nodes"].items()}
            self.queries = [
                Query(q["from"], q["to"], q["proto"], int(q["port"]), q["egress"], q["ingress"])
                for q in data["queries"]
            ]
            documents = list(data["policies"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WardmeshError(
                "not a case of a verdict table",
                where=source,
                why=f"{type(error).__name__}: {error}",
                remedy="a case has name, cluster, nodes, policies and queries",
            ) from error
        found = [
            item
            for number, document in enumerate(documents, 1)
            for item in parse_document(document, f"{self.name} (policy {number})")
        ]
        self.engine = Engine(policy_set(found), self.endpoints.values(), self.cluster)

    def address(self, name: str) -> Address:
        """A member's first address, or the address that is written."""
        known = self.endpoints.get(name)
        return known.addresses[0] if known else ipaddress.ip_address(name)

    def differences(self) -> Iterator[Difference]:
        """Verdicts other than those expected."""
        for query in self.queries:
            for direction, own, peer, expected in (
                ("egress", query.source, query.target, query.egress),
                ("ingress", query.target, query.source, query.ingress),
            ):
                found, rule = self._verdict(own, peer, query, direction == "ingress")
                if found != expected:
                    yield Difference(self.name, query, direction, expected, found, rule)

    def _verdict(self, own: str, peer: str, query: Query, ingress: bool) -> tuple[str, str]:
        subject = self.endpoints.get(own)
        if subject is None:
            return "allowed", "not a member"
        number = PROTOCOLS[query.protocol]
        action, grant = self.engine.verdict(subject, self.address(peer), number, query.port, ingress)
        return ("allowed" if action is Action.ALLOW else "denied"), grant.name if grant else "no rule"


def _endpoint(name: str, node: Mapping[str, Any]) -> Endpoint:
    pod = bool(node.get("pod"))
    labels = implicit_labels(node["labels"], node["cluster"], name, pod)
    address = ipaddress.ip_address(node["ip"])
    return Endpoint(name, node["cluster"], labels, (address,), dict(node.get("ports") or {}), not pod)


def read_cases(text: str, source: str) -> Iterator[Case]:
    """The cases of a table."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                data = json.loads(line)
            except ValueError as error:
                raise WardmeshError(
                    "not JSON", where=f"{source}:{number}", why=str(error), remedy="one case to a line"
                ) from error
            yield Case(data, f"{source}:{number}")
