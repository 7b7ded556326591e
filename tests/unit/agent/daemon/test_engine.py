# SPDX-License-Identifier: Apache-2.0
"""The engine against a host of fakes (see fakes.py for why)."""

from __future__ import annotations

import ipaddress
import json
import logging

import pytest
from tests.loading import load

from wardmesh.daemon.engine import Engine
from wardmesh.daemon.log import LOG
from wardmesh.daemon.modes import set_mode
from wardmesh.daemon.state import ModeState
from wardmesh.daemon.view import View
from wardmesh.datapath.contract import MEMBER, SELF, STRICT
from wardmesh.model.errors import WardmeshError

fakes = load("tests/unit/agent/daemon/fakes.py")

THREE = ("node1", "node2", "node3")
WALL = 1_700_000_000.0


def net(text):
    return ipaddress.ip_network(text)


class Host:
    """An engine on a relocated host."""

    def __init__(self, root, fleet):
        self.paths = fakes.make_host(root, fleet)
        self.machine = fakes.FakeMachine()
        self.clock = fakes.Clock()

    def start(self):
        engine = Engine(
            self.paths, self.machine, clock=self.clock, wall=lambda: WALL + self.clock.now - 1000.0
        )
        engine.first_pass()
        return engine

    def restart(self):
        self.machine.calls.clear()
        return self.start()

    def meet(self, engine, *names):
        for name in names:
            self.machine.handshake(name, WALL + self.clock.now - 1000.0)
        engine.reconcile()

    def flags(self, number):
        return self.machine.entries[net(f"10.0.0.{number}/32")][1]


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path, fakes.map_bytes(1, THREE))


@pytest.fixture
def log(caplog):
    LOG.propagate = True
    caplog.set_level(logging.INFO, logger="wardmesh")
    yield caplog
    LOG.propagate = False


def test_a_pass_guards_first_then_tunnel_then_routes(host):
    host.start()
    order = [
        call for call in host.machine.calls if call in ("members", "attach", "tunnel", "sysctls", "routes")
    ]
    assert order == ["members", "attach", "tunnel", "sysctls", "routes"]
    assert host.flags(1) == MEMBER | SELF
    assert host.flags(2) == MEMBER


def test_prefer_routes_only_who_answers(host):
    engine = host.start()
    assert host.machine.routes == {}
    host.meet(engine, "node2")
    assert set(host.machine.routes) == {net("10.0.0.2/32"), net("fd00::2/128")}


def test_silent_peers_are_woken(host):
    host.start()
    assert set(host.machine.woken) == {fakes.key_of("node2"), fakes.key_of("node3")}


def test_strict_seals_the_verified_and_is_on_disk_before_the_kernel_knows(host, monkeypatch):
    engine = host.start()
    host.meet(engine, "node2")
    seen = []
    told = host.machine.set_members
    monkeypatch.setattr(
        host.machine, "set_members", lambda m: seen.append(json.loads(host.paths.mode.read_text())) or told(m)
    )
    answer = set_mode(engine, "strict")
    assert answer == {"changed": True, "mode": "strict", "sealed": ["node2"], "unverified": ["node3"]}
    assert seen[0] == {"mode": "strict", "sealed": ["node2"]}
    assert host.flags(2) == MEMBER | STRICT
    assert host.flags(3) == MEMBER


def test_a_dry_run_of_the_mode_changes_nothing(host):
    engine = host.start()
    host.meet(engine, "node2")
    assert set_mode(engine, "strict", dry_run=True)["changed"]
    assert engine.state == ModeState()
    assert host.flags(2) == MEMBER


def test_strict_for_everybody_seals_the_silent_too(host):
    engine = host.start()
    assert set_mode(engine, "strict", everybody=True)["sealed"] == ["node2", "node3"]


def test_a_later_member_is_sealed_when_its_tunnel_has_held_for_five_seconds(host):
    engine = host.start()
    host.meet(engine, "node2")
    set_mode(engine, "strict")
    host.meet(engine, "node3")
    host.clock.now += 4.9
    engine.reconcile()
    assert host.flags(3) == MEMBER
    host.clock.now += 0.2
    engine.reconcile()
    assert host.flags(3) == MEMBER | STRICT
    assert json.loads(host.paths.mode.read_text())["sealed"] == ["node2", "node3"]


def test_a_sealed_member_keeps_routes_and_flag_over_a_restart_without_any_handshake(host):
    engine = host.start()
    host.meet(engine, "node2")
    set_mode(engine, "strict")
    host.machine.peers.clear()
    host.machine.entries.clear()
    host.restart()
    assert host.flags(2) == MEMBER | STRICT
    assert net("10.0.0.2/32") in host.machine.routes
    assert net("10.0.0.3/32") not in host.machine.routes


def test_a_full_disk_leaves_the_mode_as_it_was(host, monkeypatch):
    engine = host.start()
    host.meet(engine, "node2")

    def full(path, state):
        raise WardmeshError("cannot write file", why="No space left on device")

    monkeypatch.setattr("wardmesh.daemon.engine.save_state", full)
    with pytest.raises(WardmeshError, match="cannot write"):
        set_mode(engine, "strict")
    engine.reconcile()
    assert host.flags(2) == MEMBER


def test_strict_is_refused_while_the_guard_is_broken(host):
    engine = host.start()
    host.machine.broken["attach"] = "no such thing as clsact"
    engine.reconcile()
    with pytest.raises(WardmeshError, match="clsact"):
        set_mode(engine, "strict")
    assert not host.paths.mode.exists() or json.loads(host.paths.mode.read_text())["mode"] == "prefer"


def test_the_configured_prefer_wins(host):
    engine = host.start()
    set_mode(engine, "strict", everybody=True)
    host.paths.config.write_text("cluster: {name: test}\nencryption: {mode: prefer}\n")
    engine.reload()
    assert engine.state == ModeState()
    assert host.flags(2) == MEMBER
    with pytest.raises(WardmeshError, match="wishes prefer"):
        set_mode(engine, "strict")


def test_what_somebody_undid_is_logged_as_restored_and_what_is_new_as_applied(host, log):
    engine = host.start()
    log.clear()
    host.machine.undone = ["peer node2 added"]
    engine.reconcile()
    assert "restored: wireguard: peer node2 added" in log.messages
    host.paths.fleet.write_bytes(fakes.map_bytes(2, (*THREE, "node4")))
    host.machine.undone = ["peer node4 added"]
    engine.reload()
    assert "applied: wireguard: peer node4 added" in log.messages


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (fakes.map_bytes(1, THREE)[:80], "not JSON"),
        (fakes.map_bytes(1, (*THREE, "node4")), "not newer"),
        (fakes.map_bytes(9, THREE).replace(b'"generation":9', b'"generation":8'), "digest"),
        (fakes.map_bytes(9, ("node2", "node3"), own="node9"), "not in the fleet map"),
        (fakes.map_bytes(9, THREE, own_key=fakes.key_of("other")), "under another key"),
        (None, "map is gone"),
    ],
    ids=["cut", "same generation", "altered", "removed", "name under another key", "gone"],
)
def test_a_bad_map_changes_nothing_now_nor_after_a_restart(host, content, text):
    engine = host.start()
    set_mode(engine, "strict", everybody=True)
    before = dict(host.machine.entries)
    if content is None:
        host.paths.fleet.unlink()
    else:
        host.paths.fleet.write_bytes(content)
    with pytest.raises(WardmeshError, match=text):
        engine.reload()
    engine.reconcile()
    assert host.machine.entries == before
    again = host.restart()
    assert host.machine.entries == before
    assert text in str(again.refused)
    assert "last good state" in str(again.refused)
    assert any(text in problem for problem in View(again).status()["problems"])


def test_a_broken_configuration_at_start_leaves_the_last_good_one_in_force(host):
    engine = host.start()
    set_mode(engine, "strict", everybody=True)
    host.paths.config.write_text("encryption: {modee: prefer}\n")
    again = host.restart()
    assert "encryption.modee" in str(again.refused)
    assert host.flags(2) == MEMBER | STRICT


def test_a_broken_configuration_on_a_new_host_is_an_error(host):
    host.paths.config.write_text("encryption: [\n")
    with pytest.raises(WardmeshError, match=r"config\.yaml"):
        host.start()


def test_an_error_on_a_new_host_undoes_what_was_begun_and_is_raised(host):
    host.machine.broken["tunnel"] = "no WireGuard on this host"
    with pytest.raises(WardmeshError, match="no WireGuard"):
        host.start()
    assert host.machine.calls[-1] == "teardown"
    assert not host.paths.last_good.exists()


def test_an_error_later_leaves_the_other_stages_working(host):
    host.start()
    host.machine.broken["members"] = "the map is full"
    engine = host.restart()
    assert [str(error) for error in engine.problems()] == ["the map is full"]
    assert host.machine.calls[-1] == "routes"
    host.machine.broken.clear()
    engine.reconcile()
    assert engine.problems() == []


def test_a_map_that_cannot_be_applied_is_taken_back_and_keeps_who_was_sealed(host):
    engine = host.start()
    set_mode(engine, "strict", everybody=True)
    host.paths.fleet.write_bytes(fakes.map_bytes(2, ("node1", "node2", "node4")))
    host.machine.broken["sysctls"] = "read-only"
    with pytest.raises(WardmeshError, match="read-only"):
        engine.reload()
    host.machine.broken.clear()
    engine.reconcile()
    assert engine.inputs.fleet.generation == 1
    assert engine.state.sealed == {"node2", "node3"}


def test_a_new_map_comes_in_although_a_stage_is_broken_already(host):
    engine = host.start()
    host.machine.broken["attach"] = "broken"
    engine.reconcile()
    host.paths.fleet.write_bytes(fakes.map_bytes(2, (*THREE, "node4")))
    engine.reload()
    assert engine.inputs.fleet.generation == 2


def test_a_member_that_leaves_and_comes_back_is_not_sealed(host):
    engine = host.start()
    set_mode(engine, "strict", everybody=True)
    for generation, names in ((2, ("node1", "node2")), (3, THREE)):
        host.paths.fleet.write_bytes(fakes.map_bytes(generation, names))
        engine.reload()
    assert host.flags(2) == MEMBER | STRICT
    assert host.flags(3) == MEMBER


def test_a_damaged_state_file_seals_everybody(host):
    host.start()
    host.paths.mode.write_text("{")
    engine = host.restart()
    assert host.flags(2) == MEMBER | STRICT
    assert "damaged state file" in str(engine.problems()[0])
    set_mode(engine, "strict")
    assert engine.problems() == []


def test_switching_encryption_off_removes_everything_once(host):
    engine = host.start()
    host.paths.config.write_text("cluster: {name: test}\nencryption: {enabled: false}\n")
    engine.reload()
    engine.reconcile()
    assert host.machine.calls.count("teardown") == 1
    assert host.machine.entries == {}


def test_without_a_map_nothing_is_touched_and_status_says_so(tmp_path):
    host = Host(tmp_path, None)
    engine = host.start()
    assert host.machine.calls == []
    assert "no fleet map" in View(engine).status()["problems"][0]


def test_a_key_with_wrong_permissions_does_not_keep_the_guard_away(host, monkeypatch):
    engine = host.start()
    set_mode(engine, "strict", everybody=True)

    def refused():
        raise WardmeshError("wrong permissions on the private key")

    host.machine.entries.clear()
    monkeypatch.setattr(host.machine, "private_keys", refused)
    again = host.restart()
    assert host.flags(2) == MEMBER | STRICT
    assert "wrong permissions" in str(again.problems()[0])


def test_status_has_the_agreed_fields(host):
    engine = host.start()
    host.meet(engine, "node2")
    status = View(engine).status()
    assert {
        "version",
        "mode",
        "wish",
        "generation",
        "revision",
        "self",
        "backend",
        "interface",
        "publicKey",
        "peers",
        "guard",
        "inactive",
        "problems",
        "digests",
    } <= set(status)
    assert status["self"] == "node1"
    assert [(peer["name"], peer["tunnel"], peer["reachable"]) for peer in status["peers"]] == [
        ("node2", "up", True),
        ("node3", "pending", False),
    ]
    assert set(status["peers"][0]) == {
        "name",
        "address",
        "endpoint",
        "interface",
        "reachable",
        "tunnel",
        "sealed",
        "lastHandshake",
        "rxBytes",
        "txBytes",
    }


def test_a_new_map_looks_up_only_what_it_adds(host, monkeypatch):
    asked = []
    real = host.machine.paths_to

    def paths_to(addresses):
        asked.append([str(address) for address in addresses])
        return real(addresses)

    host.paths.fleet.write_bytes(fakes.map_bytes(1, THREE))
    monkeypatch.setattr(host.machine, "paths_to", paths_to)
    engine = host.start()
    everybody = [f"{prefix}{number}" for number in (2, 3) for prefix in ("10.0.0.", "fd00::")]
    assert asked == [everybody]
    host.paths.fleet.write_bytes(fakes.map_bytes(2, (*THREE, "node4")))
    engine.reload()
    engine.reconcile()
    assert asked == [everybody, ["10.0.0.4", "fd00::4"]]
    engine.note(["route"])  # the host's own ways changed: all of them again
    engine.reconcile()
    assert len(asked) == 3 and len(asked[-1]) == 6
