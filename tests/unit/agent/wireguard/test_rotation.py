# SPDX-License-Identifier: Apache-2.0
"""At every mixture of phases, every host sends through a tunnel that the other side takes packets from."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import Endpoint, FleetMap, Member, second_port
from wardmesh.wireguard.backend import PeerState
from wardmesh.wireguard.peers import desired_peers
from wardmesh.wireguard.rotation import (
    QUIET,
    Silence,
    phase_of,
    rotating_with,
    second_peers,
    uses_second,
)


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def member(number: int, following: int = 0) -> Member:
    address = f"10.0.0.{number}"
    return Member(
        f"h{number}",
        key(number),
        (ipaddress.ip_address(address),),
        Endpoint(address, 51871),
        next_key=key(following) if following else "",
    )


@pytest.mark.parametrize(
    ("forward", "first_up", "second_up", "second"),
    [
        (False, True, True, False),
        (False, True, False, False),
        (False, False, True, True),  # the only way
        (False, False, False, False),
        (True, True, True, True),
        (True, True, False, False),  # told to, but there is no such way
        (True, False, True, True),
        (True, False, False, True),
    ],
)
def test_the_way_that_is_up_wins_over_the_wished_one(
    forward: bool, first_up: bool, second_up: bool, second: bool
) -> None:
    assert uses_second(forward=forward, first_up=first_up, second_up=second_up) is second


@pytest.mark.parametrize(
    ("rotating", "pairs", "active", "phase"),
    [
        ((), (), False, "none"),
        (("a",), ("a",), False, "staged"),
        (("a",), ("a",), True, "active"),
        ((), ("a",), True, "retiring"),
        ((), ("a",), False, "retiring"),
    ],
)
def test_phases(rotating: tuple[str, ...], pairs: tuple[str, ...], active: bool, phase: str) -> None:
    assert phase_of(rotating, pairs, active) == phase


def test_a_pair_has_a_second_tunnel_when_either_side_rotates() -> None:
    one, two, three = member(1, 11), member(2), member(3)
    assert rotating_with(one, [two, three]) == {"h2", "h3"}
    assert rotating_with(two, [one, three]) == {"h1"}
    assert rotating_with(two, [three]) == frozenset()


def test_the_second_tunnels_peers() -> None:
    one, two = (
        replace(member(1, 11), keepalive=25),
        replace(member(2), next_endpoint=Endpoint("192.0.2.1", 7)),
    )
    peers = second_peers([one, two, member(3)], {"h1", "h2"}, {"h1"})
    assert set(peers) == {key(11), key(2)}
    assert peers[key(11)].endpoint == Endpoint("10.0.0.1", 51872)
    assert peers[key(2)].endpoint == Endpoint("192.0.2.1", 7)
    assert (peers[key(11)].keepalive, peers[key(2)].keepalive) == (5, 0)
    assert peers[key(11)].allowed_ips == {ipaddress.ip_network("10.0.0.1/32")}


def test_the_port_beside() -> None:
    assert [second_port(port) for port in (1, 51871, 65534, 65535)] == [2, 51872, 65535, 65534]


def state(received: int) -> PeerState:
    return PeerState("k", None, frozenset(), 0, 1.0, received, 0)


def test_silence_counts_from_the_last_byte_and_only_while_asked() -> None:
    silence = Silence()
    assert silence.observe({"k": state(5)}, {"k"}, 100.0) == frozenset()
    assert silence.observe({"k": state(5)}, {"k"}, 100.0 + QUIET - 1) == frozenset()
    assert silence.observe({"k": state(6)}, {"k"}, 100.0 + QUIET) == frozenset()
    assert silence.observe({"k": state(6)}, set(), 130.0 + QUIET) == frozenset()
    assert silence.observe({"k": state(6)}, {"k"}, 140.0 + QUIET) == frozenset()
    assert silence.observe({}, {"k"}, 150.0 + QUIET) == frozenset()
    assert silence.observe({"k": state(6)}, {"k"}, 160.0) == frozenset()
    assert silence.observe({"k": state(6)}, {"k"}, 160.0 + QUIET) == {"k"}


# --- the property -------------------------------------------------------------------------------------


@dataclass
class Host:
    """One host somewhere in a rotation: its map, whether it was told, the names that it still remembers."""

    fleet: FleetMap
    own: Member
    active: bool
    remembered: frozenset[str]

    @property
    def others(self) -> list[Member]:
        return [m for m in self.fleet.members if m.name != self.own.name]

    def see(self, name: str) -> Member:
        return next(m for m in self.fleet.members if m.name == name)

    @property
    def pairs(self) -> frozenset[str]:
        return rotating_with(self.own, self.others) | self.remembered

    def takes(self, other: Host, second: bool) -> bool:
        """Would a packet that the other one sends by that tunnel be decrypted and accepted here?"""
        if second:
            peers = second_peers(self.others, self.pairs, ())
            theirs, mine = other.own.second_key, self.own.second_key
            known = other.see(self.own.name).second_key
            meant = other.own.name in self.pairs and self.own.name in other.pairs
        else:
            peers = desired_peers(self.fleet, self.own.name)
            theirs, mine, known, meant = other.own.key, self.own.key, other.see(self.own.name).key, True
        allowed = theirs in peers and peers[theirs].allowed_ips >= set(other.own.networks())
        return meant and allowed and known == mine


def fleet(count: int, among: frozenset[int], stage: int) -> FleetMap:
    """stage 1: before, 2: next keys beside the old ones, 3: in their place."""
    members = []
    for number in range(1, count + 1):
        made = member(number, 100 + number if number in among else 0)
        if stage == 1 or not made.next_key:
            made = replace(made, next_key="")
        elif stage == 3:
            made = replace(made, key=made.next_key, next_key="")
        members.append(made)
    return FleetMap(stage, Cluster(), tuple(members), str(stage))


def mixtures(count: int, rng: random.Random, rounds: int) -> Iterator[tuple[list[Host], list[int]]]:
    """Hosts wherever the playbook may have left them, with the map that each has."""
    numbers = range(1, count + 1)
    for _round in range(rounds):
        among = frozenset(rng.sample(numbers, rng.randint(1, count)))
        steps = rng.choice(((1, 2), (2, 2), (2, 3)))
        stages = [rng.choice(steps) for _number in numbers]
        told = {
            (1, 2): [False] * count,
            (2, 2): [rng.random() < 0.5 for _n in numbers],
            (2, 3): [True] * count,
        }
        hosts = []
        for number in numbers:
            stage, active = stages[number - 1], told[steps][number - 1]
            maps = {which: fleet(count, among, which) for which in (2, stage)}
            own = {which: maps[which].members[number - 1] for which in maps}
            others = [m for m in maps[2].members if m.name != own[2].name]
            kept = rotating_with(own[2], others) if stage > 1 else frozenset()
            hosts.append(Host(maps[stage], own[stage], active, kept))
        yield hosts, stages


def choice(one: Host, other: Host, stage: int) -> bool:
    """Where one sends, by what it may believe: of a tunnel that it did not set up anew, what it saw last."""
    first_up = other.takes(one, False) and one.takes(other, False)
    second_up = other.takes(one, True) and one.takes(other, True)
    if stage < 3:  # the first tunnel was up before the rotation, and nothing told that the other side left it
        first_up = True
    forward = one.active and other.own.name in rotating_with(one.own, one.others)
    return other.own.name in one.pairs and uses_second(
        forward=forward, first_up=first_up, second_up=second_up
    )


@pytest.mark.parametrize("count", [3, 4, 5])
def test_whatever_is_sent_is_accepted_at_every_mixture_of_phases(count: int) -> None:
    rng = random.Random(count)
    seen = set()
    for hosts, stages in mixtures(count, rng, 400):
        for one, other in itertools.permutations(hosts, 2):
            second = choice(one, other, one.fleet.generation)
            seen.add((tuple(sorted(set(stages))), second))
            assert other.takes(one, second), (stages, one.own.name, other.own.name, second)
    assert {stages for stages, _second in seen} >= {(1, 2), (2,), (2, 3), (3,)}
    assert {((2, 3), True), ((2, 3), False), ((2,), True), ((1, 2), False)} <= seen


def test_the_property_would_notice_a_host_that_forgets_the_second_tunnel_too_early() -> None:
    """Host 1 has the last map and forgot; host 2 still has the one before and sends by the second tunnel."""
    late = Host(
        fleet(2, frozenset({1, 2}), 2), fleet(2, frozenset({1, 2}), 2).members[1], True, frozenset({"h1"})
    )
    last = fleet(2, frozenset({1, 2}), 3)
    hasty = Host(last, last.members[0], True, frozenset())
    assert not hasty.takes(late, True)
    assert replace(hasty, remembered=frozenset({"h2"})).takes(late, True)
