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


def test_neighbouring_ports_of_several_rules_are_one_line_with_all_of_them() -> None:
    """The kernel's table is shown by verdicts: 80 and 81 are one line, though two rules opened them."""
    fleet = numbered(2, 2)
    text = POLICY.partition("  - fromEndpoints")[0]
    for port in ("80", "81"):
        text += (
            f'  - fromEntities: [cluster]\n    toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]}}]\n'
        )
    rules = RuleNames(RuleBook({"web.yaml": text}, fleet, "h1"))
    peer = str(identities(fleet)["h2"])
    for ports, wanted in (("80-81/TCP", [0, 1]), ("80/TCP", [0]), ("81/TCP", [1]), ("82/TCP", None)):
        found = [name.rpartition(" ")[2] for name in rules.of([peer], "ingress", ports)]
        assert found == (["deny"] if wanted is None else [f"spec.ingress[{n}]" for n in wanted]), ports
