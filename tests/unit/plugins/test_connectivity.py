# SPDX-License-Identifier: Apache-2.0
"""The plan of tests that the controller makes: by the agent's own code, for each host its part."""

from __future__ import annotations

import json

import pytest
from tests.fleets import numbered
from tests.loading import load

from wardmesh.health.connectivity import read_plan
from wardmesh.model.fleetmap import canonical, digest_of

connectivity = load("plugins/plugin_utils/_connectivity.py")
plan, PlanError = connectivity.plan, connectivity.PlanError
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: db}
spec:
  nodeSelector: {matchLabels: {app: a0}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a1}}]
    toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
"""
WALL = json.dumps({"hostFirewall": {"enabled": True}, "healthChecking": {"enabled": True}})


def bytes_of(count: int) -> bytes:
    """A map as the controller has it: h1, h2, … with app a1, a0, a1, …"""
    fleet = numbered(count, 2)
    members = [
        {
            "name": member.name,
            "key": member.key,
            "addresses": [str(address) for address in member.addresses],
            "labels": dict(member.labels),
        }
        for member in fleet.members
    ]
    document = {"format": 1, "generation": 1, "cluster": {"name": "c", "id": 1}, "members": members}
    return canonical({**document, "digest": digest_of(document)}) + b"\n"


def verdicts(
    own: str, count: int, configs: dict[str, str], ports: tuple[str, ...]
) -> dict[str, dict[str, bool]]:
    found = plan(own, bytes_of(count), {"db.yaml": POLICY}, ports, lambda name: configs.get(name, "{}"))
    assert [target.name for target in read_plan(json.dumps({"targets": found}).encode(), "x")] == [
        item["name"] for item in found
    ]
    return {
        item["name"]: {
            "icmp": item["icmp"]["passes"],
            **{port["port"]: port["passes"] for port in item["ports"]},
        }
        for item in found
    }


def test_what_policy_says_of_each_pair() -> None:
    configs = {f"h{number}": WALL for number in range(1, 5)}
    ports = ("4240/tcp", "5432/tcp", "22/tcp")
    assert verdicts("h1", 4, configs, ports) == {
        "h2": {"icmp": False, "4240/tcp": True, "5432/tcp": True, "22/tcp": True},
        "h3": {"icmp": True, "4240/tcp": True, "5432/tcp": True, "22/tcp": True},
        "h4": {"icmp": False, "4240/tcp": True, "5432/tcp": True, "22/tcp": True},
    }
    assert verdicts("h2", 4, configs, ("5432/tcp",))["h4"] == {"icmp": False, "5432/tcp": False}


def test_a_host_without_a_firewall_lets_everything_pass() -> None:
    configs = {"h1": WALL, "h2": "{}", "h4": json.dumps({"hostFirewall": {"enabled": True}})}
    found = verdicts("h2", 4, configs, ("4240/tcp",))
    assert found["h4"] == {"icmp": False, "4240/tcp": False}
    assert verdicts("h1", 4, configs, ("80/tcp",))["h2"] == {"icmp": True, "80/tcp": True}


def test_a_large_fleet_is_sampled() -> None:
    assert len(verdicts("h1", 30, {}, ("80/tcp",))) == 29
    assert len(verdicts("h1", 200, {}, ("80/tcp",))) == 3


@pytest.mark.parametrize(
    ("own", "text", "configs", "word"),
    [
        ("h9", POLICY, {}, "h9 is not in the fleet map"),
        ("h1", "kind: [", {}, "db.yaml"),
        ("h1", POLICY, {"h1": '{"hostFirewal": 1}'}, "configuration of h1"),
    ],
)
def test_what_is_wrong_is_named(own: str, text: str, configs: dict[str, str], word: str) -> None:
    with pytest.raises(PlanError, match=word):
        plan(own, bytes_of(3), {"db.yaml": text}, ["80/tcp"], lambda name: configs.get(name, "{}"))


def test_a_damaged_map_is_refused() -> None:
    with pytest.raises(PlanError):
        plan("h1", bytes_of(3)[:-20], {}, ["80/tcp"], lambda _name: "{}")
