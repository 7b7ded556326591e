# SPDX-License-Identifier: Apache-2.0
"""The second tunnel in the engine, against a host of fakes (see fakes.py for why)."""

from __future__ import annotations

import ipaddress
import json

import pytest
from tests.loading import load

from wardmesh.daemon import engine as engine_module
from wardmesh.daemon.engine import Engine
from wardmesh.daemon.modes import set_mode
from wardmesh.daemon.own_keys import own_member, own_public_keys
from wardmesh.daemon.rotate import activate, report
from wardmesh.daemon.view import View
from wardmesh.model.errors import WardmeshError
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.wireguard.keys import public_of
from wardmesh.wireguard.rotation import QUIET

fakes = load("tests/unit/agent/daemon/fakes.py")

THREE = ("node1", "node2", "node3")
WALL = 1_700_000_000.0
STAGED = bytes([16]) + bytes(30) + bytes([64])
NEXT = public_of(STAGED)
NEXT2 = fakes.key_of("next2")
BEFORE = fakes.map_bytes(1, THREE)
ONLY_TWO = fakes.map_bytes(2, THREE, following={"node2": NEXT2})
BOTH = fakes.map_bytes(2, THREE, following={"node1": NEXT, "node2": NEXT2})
AFTER_TWO = fakes.map_bytes(3, THREE, keys={"node2": NEXT2})
AFTER_BOTH = fakes.map_bytes(3, THREE, own_key=NEXT, keys={"node2": NEXT2})


def net(text):
    return ipaddress.ip_network(text)


class Host:
    """An engine on a relocated host, converged and strict."""

    machine_type = fakes.FakeMachine

    def __init__(self, root, *, firewall=False):
        self.paths = fakes.make_host(root, BEFORE)
        if firewall:
            self.paths.config.write_text("cluster: {name: test, id: 1}\nhostFirewall: {enabled: true}\n")
        self.machine = self.machine_type()
        self.clock = fakes.Clock()
        self.second = self.machine.second
        self.engine = self.start()
        self.first("node2", "node3")
        set_mode(self.engine, "strict")
        self.machine.calls.clear()

    @property
    def wall(self):
        return WALL + self.clock.now - 1000.0

    def start(self):
        engine = Engine(self.paths, self.machine, clock=self.clock, wall=lambda: self.wall)
        engine.first_pass()
        return engine

    def kill(self):
        """A new agent over the same kernel and files."""
        self.machine.calls.clear()
        self.engine = self.start()

    def take(self, data):
        self.paths.fleet.write_bytes(data)
        return self.engine.reload()

    def stage_own(self):
        self.machine.staged = (STAGED,)
        (self.paths.next_key.with_suffix(".json")).write_text(
            json.dumps({"generation": 2, "publicKey": NEXT})
        )

    def first(self, *names):
        for name in names:
            self.meet(self.machine.peers, fakes.key_of(name))

    def meet(self, peers, key):
        self.clock.now += 1
        (self.machine if peers is self.machine.peers else self.second).peers[key] = fakes.replace(
            peers[key], last_handshake=self.wall
        )
        self.engine.reconcile()

    def beside(self, *keys):
        for key in keys:
            self.meet(self.second.peers, key)

    def by_second(self):
        """Numbers of the members to which the routes lead through the second tunnel."""
        assert set(self.machine.elsewhere.values()) <= {self.second.IFINDEX}
        assert set(self.machine.elsewhere) <= set(self.machine.routes)
        return sorted(int(str(n.network_address)[-1]) for n in self.machine.elsewhere if n.version == 4)

    def phase(self):
        return report(self.engine)["phase"]

    def passes(self, seconds):
        for _second in range(int(seconds)):
            self.clock.now += 1
            self.engine.reconcile()


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_without_next_keys_there_is_nothing_of_it(host):
    host.passes(3)
    assert (host.phase(), host.second.present, host.machine.ports) == ("none", False, (51871, 0))
    assert not host.paths.rotation.exists()
    with pytest.raises(WardmeshError, match="no keys rotate"):
        activate(host.engine)


def test_a_staged_key_brings_up_a_second_tunnel_that_carries_nothing(host):
    host.take(ONLY_TWO)
    assert set(host.second.peers) == {NEXT2}, "only with the member that rotates"
    assert public_of(host.second.desired.private_key) == fakes.OWN_KEY
    assert host.second.desired.listen_port == 51872
    assert host.machine.ports == (51871, 51872)
    assert json.loads(host.paths.rotation.read_text()) == {"active": False, "pairs": ["node2"]}
    assert set(host.machine.peers) == {fakes.key_of("node2"), fakes.key_of("node3")}, (
        "the first one as it was"
    )
    host.beside(NEXT2)
    host.passes(5)
    assert (host.phase(), host.by_second()) == ("staged", [])
    assert report(host.engine)["waiting"] == []


def test_guard_disk_device_firewall_peers_in_this_order(tmp_path, monkeypatch):
    host = Host(tmp_path, firewall=True)
    seen = []
    wall, second = host.machine.wall, host.second
    for thing, name in ((wall, "attach"), (second, "reconcile"), (host.machine, "set_listen_ports")):
        real = getattr(thing, name)

        def noted(*arguments, _real=real, _name=name):
            if _name == "attach":
                seen.append(("firewall", any(d[1] == "wardmesh_wg1" for d in arguments[0])))
            elif _name == "reconcile":
                seen.append(("peers", bool(arguments[0].peers), host.paths.rotation.exists()))
            else:
                seen.append(("guard", arguments[1:] == (51872,)))
            return _real(*arguments)

        monkeypatch.setattr(thing, name, noted)
    host.take(ONLY_TWO)
    order = [("guard", True), ("peers", False, True), ("firewall", True), ("peers", True, True)]
    assert [seen.index(step) for step in order] == sorted(seen.index(step) for step in order), seen
    assert wall.ports == (51871, 51872)


def test_without_the_firewall_on_it_the_device_gets_no_peers_and_the_map_is_refused(tmp_path):
    host = Host(tmp_path, firewall=True)
    host.machine.wall.broken = WardmeshError("the map is full")
    with pytest.raises(WardmeshError):
        host.take(ONLY_TWO)
    assert not host.second.peers
    host.passes(2)
    assert (host.phase(), host.second.present) == ("none", False)


def test_a_told_host_sends_through_it_where_it_is_up_and_only_there(host):
    host.stage_own()
    host.take(BOTH)
    assert set(host.second.peers) == {NEXT2, fakes.key_of("node3")}
    assert public_of(host.second.desired.private_key) == NEXT
    answer = activate(host.engine, dry_run=True)
    assert answer["changed"] and host.phase() == "staged"
    answer = activate(host.engine)
    assert (answer["changed"], answer["phase"], answer["sending"]) == (True, "active", [])
    assert answer["waiting"] == ["node2", "node3"]
    host.beside(NEXT2)
    assert host.by_second() == [2]
    host.beside(fakes.key_of("node3"))
    assert host.by_second() == [2, 3]
    assert not activate(host.engine)["changed"]
    assert {peer.keepalive for peer in host.second.peers.values()} == {5}
    rows = {row["name"]: row["interface"] for row in View(host.engine).status()["peers"]}
    assert rows == {"node2": "wardmesh_wg1", "node3": "wardmesh_wg1"}


def test_a_missing_staged_key_leaves_everything_as_it_was(host):
    with pytest.raises(WardmeshError, match="not staged on this host"):
        host.take(BOTH)
    host.passes(2)
    assert (host.phase(), host.second.present, host.by_second()) == ("none", False, [])
    assert host.engine.mesh.fleet.generation == 1


def activated(host, data=ONLY_TWO, keys=(NEXT2,)):
    host.take(data)
    host.beside(*keys)
    activate(host.engine)


def test_the_last_map_moves_back_only_when_the_first_tunnel_is_proved_with_the_new_key(host):
    activated(host)
    assert host.by_second() == [2]
    host.take(AFTER_TWO)
    assert (host.phase(), host.by_second()) == ("retiring", [2])
    assert set(host.machine.peers) == {NEXT2, fakes.key_of("node3")}
    host.passes(60)
    assert host.by_second() == [2] and host.second.present, "for as long as it takes"
    host.meet(host.machine.peers, NEXT2)
    assert host.by_second() == []
    assert host.second.present and host.second.peers[NEXT2].keepalive in (0, 5)
    host.passes(1)
    assert host.second.peers[NEXT2].keepalive == 0, "silent now: what comes is the other side's"


def test_it_stays_while_the_other_side_uses_it_and_goes_when_that_is_silent(host):
    activated(host)
    host.take(AFTER_TWO)
    host.meet(host.machine.peers, NEXT2)
    for _keepalive in range(20):  # its agent is dead; its kernel sends what a keepalive makes it send
        host.second.hears(NEXT2)
        host.passes(5)
        assert host.second.present
    host.passes(QUIET + 2)
    assert not host.second.present
    assert (host.phase(), host.machine.ports) == ("retiring", (51871, 51872)) or host.phase() == "none"
    host.passes(1)
    assert (host.phase(), host.machine.ports) == ("none", (51871, 0))
    assert json.loads(host.paths.rotation.read_text()) == {"active": False, "pairs": []}
    assert not host.engine.problems()


def test_the_map_that_ends_a_rotation_is_not_taken_back(host, monkeypatch):
    """The disk is full: going back to the old keys would cut the members off that have dropped them."""
    activated(host)

    def full(_paths, _inputs):
        raise WardmeshError("no space left")

    monkeypatch.setattr(engine_module, "remember", full)
    host.take(AFTER_TWO)
    assert host.engine.mesh.fleet.generation == 3
    assert (host.phase(), set(host.machine.peers)) == ("retiring", {NEXT2, fakes.key_of("node3")})
    assert any("no space left" in str(error) for error in host.engine.problems())


def test_a_host_whose_own_key_changed_does_not_believe_the_old_keys_handshakes(host):
    host.stage_own()
    activated(host, BOTH, (NEXT2, fakes.key_of("node3")))
    key3 = fakes.key_of("node3")
    real = host.machine.reconcile

    def rekeyed(desired):  # what Tunnel does: peers anew
        if public_of(desired.private_key) == NEXT and host.machine.state.public_key != NEXT:
            host.machine.peers.clear()
            host.machine.state = fakes.replace(host.machine.state, public_key=NEXT)
        return real(desired)

    host.machine.reconcile = rekeyed
    host.take(AFTER_BOTH)
    assert host.machine.state.public_key == NEXT
    assert host.by_second() == [2, 3], "also to the member whose key stayed"
    host.meet(host.machine.peers, key3)
    assert host.by_second() == [2]
    assert public_of(host.second.desired.private_key) == NEXT


@pytest.mark.parametrize("phase", ["staged", "active", "retiring", "back"])
def test_an_agent_killed_at_any_phase_goes_on_where_it_was(host, phase):
    host.take(ONLY_TWO)
    host.beside(NEXT2)
    if phase != "staged":
        activate(host.engine)
    if phase in ("retiring", "back"):
        host.take(AFTER_TWO)
    if phase == "back":
        host.meet(host.machine.peers, NEXT2)
    before = (host.phase(), host.by_second(), set(host.second.peers))
    host.kill()
    assert (host.phase(), host.by_second(), set(host.second.peers)) == before
    assert "second device" not in host.machine.calls and "second gone" not in host.machine.calls


@pytest.mark.parametrize("phase", ["active", "retiring"])
def test_a_rebooted_host_brings_its_second_tunnel_back(host, phase):
    activated(host)
    if phase == "retiring":
        host.take(AFTER_TWO)
    host.second.present = False
    host.second.peers.clear()
    host.machine.peers.clear()
    host.kill()
    assert host.second.present and set(host.second.peers) == {NEXT2}
    host.beside(NEXT2)
    assert host.by_second() == [2], "the first tunnel has no handshake yet"


def test_a_deleted_device_comes_back_and_the_first_tunnel_carries_meanwhile(host):
    activated(host)
    host.second.present = False
    host.second.peers.clear()
    host.passes(1)
    assert host.second.present and set(host.second.peers) == {NEXT2}
    assert host.by_second() == []
    host.beside(NEXT2)
    assert host.by_second() == [2]


def test_a_host_that_was_not_told_still_sends_where_the_other_side_is(host):
    host.take(ONLY_TWO)
    host.beside(NEXT2)
    key = fakes.key_of("node2")
    host.clock.now += 300  # we send, and nobody answers on the first tunnel any more
    for _look in range(3):
        host.machine.peers[key] = fakes.replace(
            host.machine.peers[key], tx_bytes=host.machine.peers[key].tx_bytes + 100
        )
        host.beside(NEXT2)
        host.passes(8)
    assert host.by_second() == [2]


def test_a_damaged_file_makes_tunnels_too_many_and_is_mended(host):
    host.take(ONLY_TWO)
    host.paths.rotation.write_text("{")
    host.kill()
    host.passes(1)
    assert set(host.second.peers) == {NEXT2, fakes.key_of("node3")}
    assert json.loads(host.paths.rotation.read_text())["pairs"] == ["node2", "node3"]
    host.beside(NEXT2, fakes.key_of("node3"))
    assert host.by_second() == [2], "the member that rotates: there it works in every phase"


def test_another_rotation_waits_for_the_end_of_the_last_one(host):
    activated(host)
    host.take(AFTER_TWO)
    again = fakes.map_bytes(4, THREE, keys={"node2": NEXT2}, following={"node2": fakes.key_of("later2")})
    with pytest.raises(WardmeshError, match="has not ended with node2"):
        host.take(again)
    assert host.by_second() == [2]


def test_a_member_that_leaves_takes_its_second_tunnel_along(host):
    activated(host)
    host.take(fakes.map_bytes(3, ("node1", "node3")))
    host.passes(1)
    assert (host.phase(), host.second.present) == ("none", False)


def test_a_leftover_device_is_removed(host):
    host.second.present = True
    host.passes(1)
    assert "second gone" in host.machine.calls and not host.second.present


def test_switching_encryption_off_forgets_it(host):
    activated(host)
    host.paths.config.write_text("cluster: {name: test, id: 1}\nencryption: {enabled: false}\n")
    host.engine.reload()
    assert report(host.engine)["phase"] == "none"
    assert "teardown" in host.machine.calls


def test_a_host_that_holds_only_the_next_key_is_still_that_member(host):
    """Its last good map is the one before: the guard must know who is who, also before the network is up."""
    own = host.paths.key.with_suffix(".json")
    own.write_text(json.dumps({"generation": 2, "publicKey": NEXT}))
    fleet = parse_fleet_map(BOTH, "map")
    found = own_member(fleet, own_public_keys(host.paths))
    assert found is not None and found.name == "node1"


def test_a_new_map_is_asked_once_who_rotates_however_many_members_it_has(host, monkeypatch):
    """Once for each member took the agent half of a processor beside 5,000 of them."""
    second, mesh, asked = host.engine.second, host.engine.mesh, []
    rotating = second.rotating
    monkeypatch.setattr(second, "rotating", lambda of: asked.append(of) or rotating(of))
    second.check_successor(mesh, mesh)
    assert len(asked) < len(THREE)
