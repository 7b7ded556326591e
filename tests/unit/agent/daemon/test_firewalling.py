# SPDX-License-Identifier: Apache-2.0
"""Policies in the engine: off by default, the last good set stays, and a trial ends by itself."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.loading import load

from wardmesh.daemon.engine import Engine
from wardmesh.daemon.trial import Trial
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.model.errors import WardmeshError

fakes = load("tests/unit/agent/daemon/fakes.py")

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: NAME}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [cluster]
    toPorts: [{ports: [{port: "PORT", protocol: TCP}]}]
"""


def policy(name: str, port: int = 80) -> str:
    return POLICY.replace("NAME", name).replace("PORT", str(port))


class Host:
    """An engine on a relocated host with the firewall switched on."""

    def __init__(self, root: Path) -> None:
        self.paths = fakes.make_host(root, fakes.map_bytes(1, ("node1", "node2")))
        self.machine = fakes.FakeMachine()
        self.configure("hostFirewall: {enabled: true}")
        self.paths.policies.mkdir(parents=True)

    def configure(self, text: str) -> None:
        kept = [line for line in self.paths.config.read_text().splitlines() if not line.startswith("hostF")]
        self.paths.config.write_text("\n".join([*kept, text, ""]))

    def put(self, name: str, text: str) -> None:
        (self.paths.policies / name).write_text(text)

    def start(self) -> Engine:
        engine = Engine(self.paths, self.machine, clock=fakes.Clock())
        engine.first_pass()
        return engine


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def names(engine: Engine) -> list[str]:
    return [held.name for held in engine.inputs.policies.policies]


def test_it_is_off_unless_the_configuration_says_so(host: Host) -> None:
    host.configure("hostFirewall: {enabled: false}")
    host.put("a.yaml", policy("a"))
    engine = host.start()
    assert not host.machine.wall.loaded and names(engine) == ["a"]


def test_policies_reach_devices_and_tunnel_and_only_changes_are_written(host: Host) -> None:
    host.put("a.yaml", policy("a"))
    engine = host.start()
    wall = host.machine.wall
    assert len(wall.policies) == 1 and wall.policies[0].enforced
    assert [name for _index, name, _l2 in wall.devices] == ["eth0", "wardmesh_wg0"]
    assert {(INGRESS, 6, 22), (EGRESS, 17, 53), (EGRESS, 17, 67), (INGRESS, 17, 68)} <= wall.failsafe
    engine.reconcile()
    assert len(wall.policies) == 1
    host.put("b.yaml", policy("b", 443))
    engine.reload()
    assert len(wall.policies) == 2 and names(engine) == ["a", "b"]


def test_checks_of_the_peers_pass_between_members_where_they_are_on(host: Host) -> None:
    engine = host.start()
    assert host.machine.wall.failsafe_members == set()
    host.configure("hostFirewall: {enabled: true}\nhealthChecking: {enabled: true}")
    engine.reload()
    assert host.machine.wall.failsafe_members == {(INGRESS, 6, 4240), (EGRESS, 6, 4240)}
    assert not {item for item in host.machine.wall.failsafe if item[2] == 4240}


LATER = policy("b").replace("toPorts", "authentication: {mode: required}\n    toPorts")


@pytest.mark.parametrize(
    "text",
    ["kind: [", policy("b").replace("ingress", "ingres"), policy("a"), LATER],
    ids=["broken", "unknown field", "same name", "later feature"],
)
def test_a_bad_file_leaves_the_last_good_set(host: Host, text: str) -> None:
    host.put("a.yaml", policy("a"))
    engine = host.start()
    host.put("b.yaml", text)
    with pytest.raises(WardmeshError, match=r"b\.yaml"):
        engine.reload()
    assert names(engine) == ["a"]
    again = host.start()  # the agent starts anew beside the broken file
    assert names(again) == ["a"] and again.refused is not None
    assert host.machine.wall.policies[-1].enforced


def test_switching_it_off_removes_it(host: Host) -> None:
    host.put("a.yaml", policy("a"))
    engine = host.start()
    host.configure("hostFirewall: {enabled: false}")
    engine.reload()
    assert not host.machine.wall.loaded


def trial_of(engine: Engine) -> Trial:
    def submit(job):  # type: ignore[no-untyped-def]
        future: Future[object] = Future()
        future.set_result(job())
        return future

    return Trial(engine, submit)


def test_a_trial_that_nobody_confirms_ends_by_itself(host: Host) -> None:
    host.put("a.yaml", policy("a"))
    engine = host.start()
    trial = trial_of(engine)
    assert trial.begin({"b.yaml": policy("b")}, 60)["pending"]
    assert names(engine) == ["b"]
    trial._expire()
    assert names(engine) == ["a"] and len(host.machine.wall.policies) == 3
    assert "in force again" in trial.state()["lastTrial"]
    with pytest.raises(WardmeshError, match="no policies are on trial"):
        trial.confirm()


def test_a_confirmed_trial_stays_and_hands_out_its_files(host: Host) -> None:
    engine = host.start()
    trial = trial_of(engine)
    trial.begin({"b.yaml": policy("b")}, 60)
    assert trial.confirm()["files"] == {"b.yaml": policy("b")}
    trial._expire()
    assert names(engine) == ["b"]


def test_a_trial_that_cannot_be_enforced_changes_nothing(host: Host) -> None:
    host.put("a.yaml", policy("a"))
    engine = host.start()
    trial = trial_of(engine)
    with pytest.raises(WardmeshError, match="broken YAML"):
        trial.begin({"b.yaml": "kind: ["}, 60)
    host.machine.wall.broken = WardmeshError("map full")
    with pytest.raises(WardmeshError, match="map full"):
        trial.begin({"b.yaml": policy("b")}, 60)
    assert names(engine) == ["a"] and not trial.state()["pending"]


def test_the_preview_says_what_opens_and_closes(host: Host) -> None:
    host.put("a.yaml", policy("a"))
    trial = trial_of(host.start())
    rows = trial.preview({"a.yaml": policy("a", 443)})["changes"]
    assert {(row["change"], row["from"], row["ports"]) for row in rows} == {
        ("opens", "node2", "443/tcp"),
        ("closes", "node2", "80/tcp"),
    }
