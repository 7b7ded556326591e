# SPDX-License-Identifier: Apache-2.0
"""The prober with pretended checks and a pretended clock: who is checked when, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from wardmesh.health import prober as module
from wardmesh.health.loop import Loop
from wardmesh.health.prober import Prober
from wardmesh.health.record import (
    FAILURES,
    REACHABLE,
    UNKNOWN,
    UNREACHABLE,
    Peer,
    PeerRecord,
    document,
    summary,
)


class World:
    """A clock that jumps from timer to timer, and peers that answer or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interval: float = 10.0, wall: float = 1e9) -> None:
        self.now = 500.0
        self.down: set[str] = set()
        self.checks: list[tuple[float, str]] = []
        self.loop = Loop(lambda: self.now)
        monkeypatch.setattr(module, "Pings", lambda _loop: None)
        monkeypatch.setattr(module, "Check", self._check)
        self.prober = Prober(self.loop, lambda _address: "wardmesh_wg0", lambda *_a: None, interval, wall)

    def _check(
        self,
        _loop: Loop,
        _pings: Any,
        record: PeerRecord,
        _note: Any,
        done: Callable[[bool], None],
        _port: int,
    ) -> None:
        self.checks.append((self.now, record.peer.name))
        alive = record.peer.name not in self.down
        self.loop.at(self.now + (0.3 if alive else module.DEADLINE), lambda: done(alive))

    def set_peers(self, count: int) -> None:
        self.prober.set_peers(
            "own", [Peer(f"host{number}", (f"10.0.0.{number}",)) for number in range(count)]
        )

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.loop._timers and self.loop._timers[0][0] <= end:
            self.now = max(self.now, self.loop._timers[0][0])
            self.loop.once(0)
        self.now = end

    def state(self, name: str) -> str:
        return self.prober.records[name].state


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(monkeypatch)
    yield made
    made.loop.close()


def test_everybody_is_found_within_a_cycle(world: World) -> None:
    world.set_peers(99)
    assert {world.state(f"host{number}") for number in range(99)} == {UNKNOWN}
    world.run(world.prober.schedule.plan.cycle + 20)
    assert {world.state(f"host{number}") for number in range(99)} == {REACHABLE}


def test_one_that_goes_is_noticed_within_a_bound_and_comes_back(world: World) -> None:
    world.set_peers(99)
    cycle, interval = world.prober.schedule.plan.cycle, 10.0
    world.run(2 * cycle)
    world.down = {"host5"}
    world.run(cycle + FAILURES * (interval + module.DEADLINE) + interval)
    assert world.state("host5") == UNREACHABLE
    assert sum(record.state == UNREACHABLE for record in world.prober.records.values()) == 1
    world.down = set()
    world.run(cycle + interval)
    assert world.state("host5") == REACHABLE


def test_a_single_failure_is_no_verdict(world: World) -> None:
    world.set_peers(4)
    world.run(25)
    world.down = {"host1"}
    world.run(9)
    world.down = set()
    world.run(30)
    assert world.state("host1") == REACHABLE


def test_dead_peers_do_not_raise_the_load_beyond_a_bound(world: World) -> None:
    """Those in doubt are looked at between the others: at most twice the checks in any interval."""
    world.set_peers(999)
    world.down = {f"host{number}" for number in range(999)}
    world.run(1200)
    for start in range(500, 1600, 10):
        assert sum(start <= when < start + 10 for when, _name in world.checks) <= 42
    per_peer = Counter(name for _when, name in world.checks)
    assert max(per_peer.values()) <= 3 * FAILURES  # in two cycles and a half
    # Once it is certain, a dead host is asked no more often than a living one.
    world.checks.clear()
    world.run(world.prober.schedule.plan.cycle)
    assert max(Counter(name for _when, name in world.checks).values()) <= 2


def test_a_pause_of_the_process_is_not_made_up_for_in_a_burst(world: World) -> None:
    world.set_peers(99)
    world.run(100)
    world.now += 300  # stopped, as by a debugger
    world.checks.clear()
    world.run(60)
    times = sorted(when for when, _name in world.checks)
    for place in range(len(times) - 10):
        assert times[place + 10] - times[place] >= 1.9
    assert len(times) <= 60 * 2.6


@pytest.mark.parametrize("wall", [0.0, 1e9, 4e12, 0.5])
def test_the_wall_clock_only_says_where_to_begin(monkeypatch: pytest.MonkeyPatch, wall: float) -> None:
    world = World(monkeypatch, wall=wall)
    world.set_peers(50)
    world.run(world.prober.schedule.plan.cycle + 20)
    assert summary(document(world.prober.records.values(), world.now))["reachable"] == 50
    world.loop.close()


def test_a_new_map_keeps_what_is_known(world: World) -> None:
    world.set_peers(10)
    world.run(25)
    held = world.prober.records["host3"]
    world.set_peers(20)
    assert world.prober.records["host3"] is held and world.state("host15") == UNKNOWN
    world.set_peers(2)
    assert set(world.prober.records) == {"host0", "host1"}
    world.run(30)
    late = [name for when, name in world.checks if when > 526]
    assert set(late) <= {"host0", "host1"}


def test_a_peer_with_another_address_begins_anew(world: World) -> None:
    world.set_peers(3)
    world.run(25)
    world.prober.set_peers("own", [Peer("host0", ("10.9.9.9",))])
    assert world.state("host0") == UNKNOWN


def test_only_versions_that_peers_have_are_missed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.prober, "_pings", SimpleNamespace(problems={6: "no IPv6"}))
    world.set_peers(3)
    assert world.prober.problems == []
    world.prober.set_peers("own", [Peer("host0", ("10.0.0.1", "fd00::1"))])
    assert world.prober.problems == ["no IPv6"]


def test_no_peers_no_checks(world: World) -> None:
    world.set_peers(0)
    world.run(100)
    assert world.checks == []
