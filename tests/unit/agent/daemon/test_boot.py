# SPDX-License-Identifier: Apache-2.0
"""What the boot closes before it loads anything, and what becomes of it when the programs do not come."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.agent.daemon.fakes import Clock, FakeMachine, make_host, map_bytes

from wardmesh.daemon.boot import KEPT, bring_up
from wardmesh.daemon.closing import CLOSED, STAND_IN, needs_of
from wardmesh.daemon.engine import Engine
from wardmesh.daemon.inputs import load_inputs, remember
from wardmesh.daemon.state import PREFER, STRICT, ModeState, save_state
from wardmesh.datapath.closed_door import Doors
from wardmesh.datapath.tc import FIREWALL_PREFIX, PREFIX
from wardmesh.host.paths import Paths
from wardmesh.model.config import parse_config
from wardmesh.model.errors import WardmeshError

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: closed}
spec: {nodeSelector: {}, ingress: [{fromEntities: [cluster]}]}
"""
HEAD = "cluster: {name: test, id: 1}\n"
WALL = HEAD + "hostFirewall: {enabled: true}\n"
SEALED = ModeState(STRICT, frozenset({"node2"}))
UNSEALED = ModeState(PREFER, frozenset())
SSH = Doors((51871,), ((6, 22),))


def a_host(root: Path, config: str, policy: str = "", state: ModeState = UNSEALED) -> Paths:
    """A member of two whose files were in force, before it booted."""
    paths = make_host(root, map_bytes(1, ("node1", "node2")))
    paths.config.write_text(config)
    paths.policies.mkdir()
    if policy:
        (paths.policies / "closed.yaml").write_text(policy)
    remember(paths, load_inputs(paths, paths.config, paths.fleet, paths.policies))
    save_state(paths.mode, state)
    return paths


def booted(paths: Paths, machine: FakeMachine) -> list[str]:
    """The lines of a boot; those of one that fails, too."""
    said: list[str] = []
    try:
        bring_up(paths, machine, said.append)
    except WardmeshError as error:
        said.append(f"failed: {error}")
    return said


@pytest.mark.parametrize(
    ("words", "config", "policy", "state", "closed"),
    [
        ("nothing is enforced", HEAD, "", UNSEALED, False),
        ("a policy without a firewall", HEAD, POLICY, UNSEALED, False),
        ("a firewall without policies", WALL, "", UNSEALED, False),
        ("a policy", WALL, POLICY, UNSEALED, True),
        ("a policy that only records", WALL + "policyAuditMode: true\n", POLICY, UNSEALED, False),
        ("a sealed member", HEAD, "", SEALED, True),
    ],
)
def test_it_closes_only_what_would_be_more_open_without_the_programs(
    tmp_path: Path, words: str, config: str, policy: str, state: ModeState, closed: bool
) -> None:
    paths, machine = a_host(tmp_path, config, policy, state), FakeMachine(broken={"load": "no headers"})
    said = booted(paths, machine)
    assert "failed: no headers" in said[-1]
    assert (KEPT in said) is closed, words
    assert machine.shut.devices == ({2, 3} if closed else set())
    if closed:
        assert machine.calls.index("shut") < machine.calls.index("load")
        assert machine.shut.doors == SSH


def test_what_stays_open_is_read_from_the_configuration(tmp_path: Path) -> None:
    doors = "hostFirewall: {enabled: true, failsafeIngress: [{protocol: TCP, port: 2222}]}\n"
    paths = a_host(tmp_path, HEAD + doors + "encryption: {listenPort: 5000}\n", POLICY)
    machine = FakeMachine(broken={"load": "no headers"})
    booted(paths, machine)
    assert machine.shut.doors == Doors((5000,), ((6, 2222),))


def test_a_last_good_state_that_cannot_be_read_closes_too(tmp_path: Path) -> None:
    paths, machine = a_host(tmp_path, WALL, POLICY), FakeMachine()
    (paths.last_good / "fleet.json").write_text("{")
    said = booted(paths, machine)
    assert KEPT in said and said[-1].startswith("failed:")
    assert machine.shut.devices == {2, 3} and machine.shut.doors == SSH
    (paths.last_good / "config.yaml").write_bytes(b"\xff")
    paths.config.write_text("nonsense: {")
    booted(paths, machine)
    assert machine.shut.doors == SSH


def test_a_boot_that_goes_well_leaves_nothing_behind(tmp_path: Path) -> None:
    paths, machine = a_host(tmp_path, WALL, POLICY), FakeMachine()
    machine.shut.real = {2, 3}
    said = booted(paths, machine)
    assert machine.shut.devices == set() and machine.wall.policies and KEPT not in said
    assert "stand-in: interface 2: detached" in said


def test_a_device_that_cannot_be_closed_keeps_nobody_from_loading(tmp_path: Path) -> None:
    paths, machine = a_host(tmp_path, WALL, POLICY), FakeMachine(broken={"shut": "an ingress qdisc"})
    said = booted(paths, machine)
    assert any("not closed: an ingress qdisc" in line for line in said)
    assert machine.wall.policies


# --- what the agent does with what the boot left ---


def started(paths: Paths, machine: FakeMachine) -> tuple[Engine, Clock]:
    clock = Clock()
    engine = Engine(paths, machine, clock=clock)
    engine.first_pass()
    return engine, clock


def test_the_agent_keeps_the_host_closed_until_both_programs_stand(tmp_path: Path) -> None:
    paths, machine = a_host(tmp_path, WALL, POLICY), FakeMachine(broken={"load": "no headers"})
    booted(paths, machine)
    engine, clock = started(paths, machine)
    assert engine.closing.stands and CLOSED in engine.stages.problems
    assert machine.shut.devices == {2, 3, 7}  # the tunnel's device, too
    machine.broken.clear()
    clock.now += 60
    machine.shut.real = {2}
    engine.reconcile()
    assert machine.shut.devices == {7} and CLOSED in engine.stages.problems
    machine.shut.real = {2, 7}
    engine.reconcile()
    assert machine.shut.devices == set() and not engine.closing.stands
    assert CLOSED not in engine.stages.problems and STAND_IN not in engine.stages.problems
    machine.calls.clear()
    engine.reconcile()
    assert "shut" not in machine.calls


def test_a_host_that_is_not_closed_is_never_closed_by_the_agent(tmp_path: Path) -> None:
    paths, machine = a_host(tmp_path, WALL, POLICY), FakeMachine(broken={"load": "no headers"})
    engine, _clock = started(paths, machine)
    assert not engine.closing.stands and "shut" not in machine.calls


def test_which_filters_a_device_needs_follows_the_configuration(tmp_path: Path) -> None:
    eth0, tunnel = (2, "eth0", True), (7, "wardmesh_wg0", False)
    both = needs_of(parse_config(WALL, "test"), [eth0], [tunnel])
    assert both == {2: (PREFIX, FIREWALL_PREFIX), 7: (FIREWALL_PREFIX,)}
    assert needs_of(parse_config(HEAD, "test"), [eth0], [tunnel]) == {2: (PREFIX,), 7: ()}
