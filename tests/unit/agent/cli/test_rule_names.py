# SPDX-License-Identifier: Apache-2.0
"""A line of the kernel's table stands for all peers with the same ports; each may have its own rule."""

from __future__ import annotations

from tests.fleets import numbered

from wardmesh.cli.rule_names import RuleNames
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.model.identity import identities

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec:
  nodeSelector: {matchLabels: {node: h1}}
  ingress:
  - fromEndpoints: [{matchLabels: {node: h2}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {node: h3}}, {matchLabels: {node: h4}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""


def test_every_rule_behind_a_line_is_named_once() -> None:
    fleet = numbered(5, 5)
    numbers = identities(fleet)
    rules = RuleNames(RuleBook({"web.yaml": POLICY}, fleet, "h1"))

    def places(*names: str, direction: str = "ingress", ports: str = "80/TCP") -> list[str]:
        found = rules.of([str(numbers[name]) for name in names], direction, ports)
        return [name.rpartition(" ")[2] for name in found]

    assert places("h2", "h3", "h4") == ["spec.ingress[0]", "spec.ingress[1]"]
    assert places("h4") == ["spec.ingress[1]"]
    assert places("h2", direction="egress") == ["deny"]  # no default deny
    assert places("h2", ports="80/none") == []
    assert rules.of(["4711"], "ingress", "80/TCP") == []
