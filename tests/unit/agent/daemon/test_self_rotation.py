# SPDX-License-Identifier: Apache-2.0
"""Keys that hosts change by themselves: this host's part, and what it makes of the others' records."""

from __future__ import annotations

import os

import pytest
from tests.loading import load

from wardmesh.daemon.discovering import order_of
from wardmesh.daemon.self_rotation import REST, SPREAD, SelfRotation
from wardmesh.discovery.document import Claim, Departed, Discovered, write_discovered
from wardmesh.discovery.members import shortened
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.map_parser import parse_member
from wardmesh.wireguard import keys
from wardmesh.wireguard.rotation import QUIET

fakes = load("tests/unit/agent/daemon/fakes.py")
second = load("tests/unit/agent/daemon/test_second.py")
HOUR = 3600.0
CONFIG = (
    "cluster: {name: test, id: 1}\n"
    "encryption: {keyRotation: 1h}\n"
    "etcd: {endpoints: ['http://192.0.2.1:2379']}\n"
)


class Machine(fakes.FakeMachine):
    """With this host's real key files."""

    def private_keys(self):
        return keys.private_keys(self.paths)

    def promote(self, public):
        return keys.promote(self.paths, public)


class Host(second.Host):
    """A strict engine of three members with a store, and the part that rotates."""

    machine_type = Machine

    def __init__(self, root):
        super().__init__(root)
        self.paths.config.write_text(CONFIG)
        self.engine.reload()

    def start(self):
        self.machine.paths = self.paths
        engine = super().start()
        self.rotation = SelfRotation(self.paths, engine, clock=self.clock, wall=lambda: self.wall)
        self.rotation.store = lambda: {"registered": True}
        return engine

    def age(self, seconds):
        os.utime(self.paths.key, (self.wall - seconds, self.wall - seconds))

    def passes(self, seconds):
        for _second in range(int(seconds)):
            self.clock.now += 1
            self.engine.reconcile()
            self.rotation.step()

    @property
    def own(self):
        return self.engine.mesh.own

    def order(self):
        return order_of(self.engine.inputs, self.paths)

    def learn(self, claims=(), departed=(), rotated=()):
        """The follower of the store wrote down what it learned."""
        found = Discovered(
            Cluster("test", 1),
            {claim.member.name: claim for claim in claims},
            {claim.member.name: Departed(claim, 60.0) for claim in departed},
            {claim.member.name: claim for claim in rotated},
        )
        self.paths.discovered.write_bytes(write_discovered(found))
        return self.engine.rediscover()

    def peer(self, number):
        return next(member for member in self.engine.mesh.others if member.name == f"node{number}")


def record(number, key, following="", former=(), labels=None):
    item = {"name": f"node{number}", "key": key, "addresses": [f"10.0.0.{number}"], "labels": labels or {}}
    return Claim(parse_member({**item, **({"nextKey": following} if following else {})}, "t"), 5, former)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def staged(host):
    """A host whose key is due: the next one is staged."""
    host.age(HOUR * (1 + SPREAD) + REST)
    host.passes(REST + 1)
    assert host.own.next_key
    return host


def test_a_young_key_stays(host):
    host.age(HOUR - 600)
    host.passes(300)
    assert (host.own.next_key, host.phase(), host.second.present) == ("", "none", False)
    assert host.order().former == ()


def test_a_key_that_is_due_is_staged_and_told_and_the_second_tunnel_carries_at_once(staged):
    assert staged.own.key == fakes.OWN_KEY, "still the one in use"
    assert staged.order().own.next_key == staged.own.next_key == keys.staged_key(staged.paths)
    assert staged.second.present
    assert set(staged.second.peers) == {fakes.key_of("node2"), fakes.key_of("node3")}
    assert staged.by_second() == []
    staged.beside(fakes.key_of("node2"))
    assert staged.by_second() == [2]
    staged.beside(fakes.key_of("node3"))
    assert (staged.by_second(), staged.phase()) == ([2, 3], "active")


def test_the_old_key_goes_when_nobody_needs_it_and_everything_is_as_before(staged):
    following = staged.own.next_key
    staged.beside(fakes.key_of("node2"), fakes.key_of("node3"))
    staged.passes(QUIET - 3)
    assert staged.own.key == fakes.OWN_KEY
    staged.passes(6)
    assert (staged.own.key, staged.own.next_key) == (following, "")
    assert staged.order().own.key == following
    assert staged.order().former == (fakes.OWN_KEY,)
    assert list(staged.machine.private_keys()) == [following]
    staged.first("node2", "node3")
    staged.passes(QUIET + 10)
    assert (staged.by_second(), staged.phase(), staged.second.present) == ([], "none", False)
    assert not staged.engine.problems()
    staged.passes(REST + 60)
    assert staged.phase() == "none", "the new key is young"


def test_who_still_sends_with_the_old_key_keeps_it_in_use(staged):
    staged.beside(fakes.key_of("node2"), fakes.key_of("node3"))
    key = fakes.key_of("node2")
    for _again in range(30):
        staged.machine.peers[key] = fakes.replace(
            staged.machine.peers[key], rx_bytes=staged.machine.peers[key].rx_bytes + 32
        )
        staged.passes(10)
        assert staged.own.key == fakes.OWN_KEY
    staged.passes(QUIET + 3)
    assert staged.own.key != fakes.OWN_KEY


def test_who_has_no_second_tunnel_keeps_it_in_use_unless_nothing_of_it_is_up(staged):
    staged.beside(fakes.key_of("node2"))
    staged.passes(120)
    assert staged.own.key == fakes.OWN_KEY, "node3 has a tunnel by the old key alone"
    staged.engine.liveness.observe({}, staged.clock(), staged.wall)  # node3 is down
    staged.engine.first_up = lambda member: False
    staged.passes(QUIET + 3)
    assert staged.own.key != fakes.OWN_KEY


def test_a_kill_between_key_and_record_is_made_good_by_the_next_start(staged):
    following = staged.own.next_key
    assert keys.promote(staged.paths, following, fakes.OWN_KEY)
    staged.kill()
    assert (staged.own.key, staged.own.next_key) == (following, "")
    assert staged.order().own.key == following
    assert not staged.engine.problems()


def test_the_rolled_out_map_may_learn_of_the_key_late_or_never(staged):
    following = staged.own.next_key
    staged.beside(fakes.key_of("node2"), fakes.key_of("node3"))
    staged.passes(QUIET + 3)
    staged.take(fakes.map_bytes(2, second.THREE))
    assert staged.own.key == following, "a run that began before: the map has the old key"
    staged.kill()
    assert staged.own.key == following
    staged.take(fakes.map_bytes(3, second.THREE, own_key=following))
    assert staged.own.key == following
    assert staged.engine.inputs.rolled_out == staged.engine.inputs.fleet
    assert staged.order().former == (fakes.OWN_KEY,)


def test_a_key_of_the_rolled_out_map_is_never_forgotten(host):
    for _again in range(80):
        following = keys.stage_next(host.paths, dry_run=False, by_itself=True).public_key
        assert keys.promote(host.paths, following, fakes.OWN_KEY)
    assert len(keys.former_keys(host.paths)) == 64
    assert fakes.OWN_KEY in keys.former_keys(host.paths)
    host.kill()
    assert host.own.key == following
    assert host.order().former[-1] == fakes.OWN_KEY


def test_what_a_playbook_stages_is_the_playbooks(staged):
    public = keys.staged_key(staged.paths)
    assert keys.stage_next(staged.paths, dry_run=False).public_key == public
    staged.beside(fakes.key_of("node2"), fakes.key_of("node3"))
    staged.passes(2 * QUIET)
    assert staged.own.key == fakes.OWN_KEY, "it is the playbook that ends it"
    staged.take(fakes.map_bytes(2, second.THREE, following={"node1": public}))
    staged.passes(10 * QUIET)
    assert (staged.own.key, staged.phase()) == (fakes.OWN_KEY, "staged")
    staged.take(fakes.map_bytes(3, second.THREE, own_key=public))
    assert (staged.own.key, staged.phase()) == (public, "retiring")


@pytest.mark.parametrize("what", ["store", "map", "off"])
def test_it_is_not_begun_without_a_store_nor_while_a_playbook_rotates(host, what):
    if what == "store":
        host.rotation.store = lambda: {"registered": False}
    elif what == "map":
        host.take(fakes.map_bytes(2, second.THREE, following={"node2": second.NEXT2}))
    else:
        host.paths.config.write_text("cluster: {name: test, id: 1}\nencryption: {keyRotation: 1h}\n")
        host.engine.reload()
    host.age(3 * HOUR)
    host.passes(REST + 60)
    assert keys.staged_key(host.paths) == ""
    with pytest.raises(WardmeshError, match="cannot rotate its key by itself"):
        host.rotation.begin()


def test_by_hand_it_is_begun_at_once_and_once(host):
    assert host.rotation.begin(dry_run=True)
    assert keys.staged_key(host.paths) == ""
    assert host.rotation.begin()
    assert not host.rotation.begin()
    assert host.own.next_key == keys.staged_key(host.paths)


# --- the others ---

OLD2, NEW2 = fakes.key_of("node2"), fakes.key_of("node2 later")
FORMER2 = shortened([OLD2])


def test_a_record_with_a_next_key_is_met_by_a_second_tunnel(host):
    host.learn([record(2, OLD2, following=NEW2)])
    assert host.phase() == "active"
    assert set(host.second.peers) == {NEW2}
    host.beside(NEW2)
    assert host.by_second() == [2]
    host.learn([record(2, NEW2, former=FORMER2, labels={"app": "db"})])
    assert (host.peer(2).key, dict(host.peer(2).labels)) == (NEW2, {"app": "db"})
    assert NEW2 in host.machine.peers and OLD2 not in host.machine.peers
    assert host.by_second() == [2], "until the first one is proved"
    host.meet(host.machine.peers, NEW2)
    assert host.by_second() == []


def test_a_rotated_key_outlives_its_record(host):
    host.learn([record(2, NEW2, former=FORMER2)])
    assert host.peer(2).key == NEW2
    host.learn(departed=[record(2, NEW2, former=FORMER2)])
    assert host.peer(2).key == NEW2
    host.learn(rotated=[record(2, NEW2, former=FORMER2)])
    assert host.peer(2).key == NEW2
    host.kill()
    assert host.peer(2).key == NEW2


@pytest.mark.parametrize(
    "claim",
    [
        record(2, NEW2),  # somebody who does not know the key of the map
        record(2, NEW2, former=shortened([fakes.key_of("node9")])),
        record(2, fakes.key_of("node3"), former=FORMER2),  # another member's key
        record(2, fakes.OWN_KEY, former=FORMER2),  # ours
    ],
)
def test_who_does_not_follow_the_map_is_refused(host, claim):
    host.learn([claim])
    assert host.peer(2).key == OLD2
    assert [refused.name for refused in host.engine.inputs.refused] == ["node2"]


def test_where_keys_do_not_change_by_themselves_the_map_stands(host):
    host.paths.config.write_text(CONFIG.replace("encryption: {keyRotation: 1h}\n", ""))
    host.engine.reload()
    host.learn([record(2, NEW2, former=FORMER2)])
    assert host.peer(2).key == OLD2
    host.learn([record(2, OLD2, following=NEW2)])
    assert (host.peer(2).next_key, host.second.present) == ("", False)
