# SPDX-License-Identifier: Apache-2.0
"""Whether a flow between members passes: policy of both sides, their failsafes, and whose firewall is on."""

from __future__ import annotations

import ipaddress

import pytest

from wardmesh.model.config import parse_config
from wardmesh.policy.engine import Engine
from wardmesh.policy.files import parse_policies
from wardmesh.policy.fleet import Endpoint, implicit_labels
from wardmesh.policy.passes import NO_POLICY, Failsafe, between, failsafe_of

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: db}
spec:
  nodeSelector: {matchLabels: {node: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {node: a}}]
    toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
"""
NONE = Failsafe()
SSH_IN = Failsafe(ingress=frozenset({(6, 22)}))
CHECKS = Failsafe(members=frozenset({(6, 4240)}))


@pytest.fixture
def engine() -> Engine:
    members = [
        Endpoint(name, "c", implicit_labels({}, "c", name), (ipaddress.ip_address(f"10.0.0.{number}"),))
        for number, name in enumerate("abc", 1)
    ]
    return Engine(parse_policies([("db.yaml", POLICY)], "policies"), members, "c")


@pytest.mark.parametrize(
    ("source", "target", "port", "safe", "enforced", "good"),
    [
        ("a", "b", "5432/tcp", (NONE, NONE), (True, True), True),
        ("c", "b", "5432/tcp", (NONE, NONE), (True, True), False),
        ("c", "b", "5432/tcp", (NONE, NONE), (True, False), True),  # b's firewall is off
        ("c", "b", "5432/tcp", (NONE, NONE), (False, True), False),
        ("b", "c", "5432/tcp", (NONE, NONE), (True, True), True),
        ("c", "b", "22/tcp", (NONE, SSH_IN), (True, True), True),
        ("c", "b", "22/tcp", (SSH_IN, NONE), (True, True), False),  # the other side's failsafe helps nobody
        ("c", "b", "22/udp", (SSH_IN, SSH_IN), (True, True), False),
        ("c", "b", "4240/tcp", (NONE, CHECKS), (True, True), True),
        ("c", "b", "4240/tcp", (CHECKS, NONE), (True, True), False),
        ("a", "b", "8/icmp", (CHECKS, CHECKS), (True, True), False),
        ("a", "c", "8/icmp", (NONE, NONE), (True, True), True),
    ],
)
def test_flows(engine: Engine, source, target, port, safe, enforced, good) -> None:
    found, why = between(engine, source, target, port, safe, enforced)
    assert found is good and why
    assert "db.yaml" in why or good or "default deny" in why


def test_without_a_firewall_no_policy_counts(engine: Engine) -> None:
    assert between(engine, "c", "b", "5432/tcp", (NONE, NONE), (False, False)) == (True, NO_POLICY)


def test_the_failsafe_is_that_of_the_configuration() -> None:
    assert failsafe_of(parse_config("", "x")).members == frozenset()
    found = failsafe_of(parse_config("healthChecking: {enabled: true}", "x"))
    assert found.members == {(6, 4240)} and (6, 22) in found.ingress and (17, 53) in found.egress
