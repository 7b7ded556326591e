# SPDX-License-Identifier: Apache-2.0
"""What each rule of a policy has decided, counted by the firewall's real programs."""

from __future__ import annotations

import pytest
from tests.bpf.fw_harness import FirewallBench
from tests.bpf.packets import ethernet, ipv4, udp
from tests.bpf.test_firewall import tcp
from tests.bpf.test_fw_view import opened
from tests.fleets import numbered

from wardmesh.cli.rule_counts import count_rules
from wardmesh.daemon.firewall_tables import host_tables
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.policy.files import parse_policies

pytestmark = pytest.mark.netns

FLEET = numbered(5, 100)
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: prod}
spec:
  endpointSelector: {matchLabels: {app: a1}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a2}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}, {port: "443", protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: a3}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}, {port: "443", protocol: TCP}]}]
  - fromEntities: [cluster]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: a4}}]
  - fromEndpoints: [{matchLabels: {app: a5}}]
"""


def counts(wall: FirewallBench) -> dict[str, int]:
    """New flows by rule, those at zero too; all of them exact."""
    book = RuleBook({"shop.yaml": POLICY}, FLEET, "h1")
    with opened(wall) as maps:
        rows = count_rules(book, maps.judged())
    assert all(row.flows == row.at_most for row in rows)
    return {f"{row.direction} {row.rule}": row.flows for row in rows}


def test_every_rule_counts_what_it_allowed_or_denied_and_its_neighbour_nothing(wall: FirewallBench) -> None:
    wall.firewall.set_policy(host_tables(parse_policies([("shop.yaml", POLICY)], "policies"), FLEET, "h1"))
    none = counts(wall)
    assert set(none.values()) == {0}

    def send(number: int, host: int, port: int, first: int) -> set[bool]:
        return {
            wall.passes(INGRESS, ethernet(ipv4(f"10.0.0.{host}", "10.0.0.1", tcp(first + n, port))))
            for n in range(number)
        }

    assert send(7, 2, 80, 4000) == {True}
    assert send(3, 2, 443, 5000) == {True}  # two rules allow it
    assert send(5, 4, 443, 6000) == {False}  # one denies what another allows
    assert send(2, 5, 9999, 7000) == {False}
    assert send(4, 3, 9999, 8000) == {False}  # no rule speaks
    for _again in range(2):  # packets of a flow that is known are no new flow
        assert send(7, 2, 80, 4000) == {True}
    wall.passes(EGRESS, ethernet(ipv4("10.0.0.1", "10.0.0.9", udp(4000, 53))))
    assert counts(wall) == {
        "ingress spec.ingress[0]": 10,
        "ingress spec.ingress[1]": 0,
        "ingress spec.ingress[2]": 3,
        "ingress spec.ingressDeny[0]": 5,
        "ingress spec.ingressDeny[1]": 2,
        "ingress default deny": 4,
        "egress no default deny": 1,
    }
    wall.firewall.set_policy(host_tables(parse_policies([("shop.yaml", POLICY)], "policies"), FLEET, "h1"))
    assert counts(wall) == none  # a revision begins at nothing
