# SPDX-License-Identifier: Apache-2.0
"""Keys rotate under a flood, in strict mode with the firewall on: nothing is lost, nothing is plain.

Real agents, real wireguard-go, real eBPF programs; the controller's steps by the controller's code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns import wire
from tests.netns.conftest import require_tools
from tests.netns.fleet import Controller, Member, Result, rotation, strict_fleet, traffic
from tests.waiting import wait_for

from wardmesh.model.errors import WardmeshError

pytestmark = pytest.mark.netns
PLAIN = f"{wire.PLAIN} and not (udp port 51872)"
EVERYBODY = ["node1", "node2", "node3"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """Three strict members."""
    require_tools()
    with strict_fleet(3, tmp_path_factory.mktemp("fleet")) as made:
        yield made


def assert_nothing_lost(result: Result, pairs: int = 6) -> None:
    assert result.lost() == {}
    sent = {pair: flood[:2] for pair, flood in result.floods.items()}
    print(sent, result.streams)
    assert len(sent) == len(result.streams) == pairs
    assert min(numbers[0] for numbers in sent.values()) > 1000, sent
    assert min(result.streams.values()) > 100, result.streams
    assert result.plain == []


def assert_over(fleet: Controller, before: dict[str, str], rotated: list[str]) -> None:
    """New keys in use, no old one anywhere, one tunnel again."""
    after = fleet.keys()
    assert sorted(name for name in after if after[name] != before[name]) == rotated
    for member in fleet.members:
        assert all(member.has(key) for key in after.values())
        assert not any(member.has(before[name]) for name in rotated)
        assert "wardmesh_wg1" not in member.host.run("ip", "-br", "link")
        assert not (member.root / "var/lib/wardmesh/keys/next.key").exists()
        status = member.status()
        assert status["problems"] == []
        assert {peer["interface"] for peer in status["peers"]} == {"wardmesh_wg0"}
        assert all(peer["sealed"] for peer in status["peers"])


def test_a_rotation_of_all_loses_nothing_and_shows_nothing(fleet: Controller, tmp_path: Path) -> None:
    before = fleet.keys()
    with traffic(fleet.members, tmp_path, PLAIN) as result:
        fleet.stage(EVERYBODY)
        fleet.activate()
        for member in fleet.members:
            assert "wardmesh_wg0" not in member.host.run("ip", "route", "show", "table", "51871")
        fleet.retire()
    assert_nothing_lost(result)
    assert_over(fleet, before, EVERYBODY)


def test_a_rotation_of_one_with_agents_killed_at_every_phase(fleet: Controller, tmp_path: Path) -> None:
    one, two, three = fleet.members
    before = fleet.keys()

    with traffic(fleet.members, tmp_path, PLAIN) as result:
        fleet.stage(["node2"], also=lambda: killed_and_back(one))
        fleet.activate([one])
        one.kill()
        fleet.activate([two])
        back(one)
        fleet.activate([three])
        killed_and_back(two)
        fleet.retire(first=1)
        one.kill()  # on it the key was exchanged; the others do not know yet
        fleet.apply([two])
        killed_and_back(two)
        fleet.apply([three])
        three.kill()
        back(one)
        back(three)
        fleet.end()
    assert_nothing_lost(result)
    assert_over(fleet, before, ["node2"])


def back(member: Member) -> None:
    """Start the agent, until nothing is wrong."""
    member.start()
    wait_for(lambda: _is_well(member), f"the agent of {member.name} is back", 60)


def killed_and_back(member: Member) -> None:
    member.kill()
    back(member)


def _is_well(member: Member) -> bool:
    try:
        return not member.status()["problems"]
    except WardmeshError:
        return False


def test_a_compromised_key_is_dropped_at_once_and_only_its_host_notices(
    fleet: Controller, tmp_path: Path
) -> None:
    one, two, three = fleet.members
    before = fleet.keys()
    with traffic([one, three], tmp_path, PLAIN) as result:
        key = two.wardmesh("encryption", "rotate", "--phase", "stage")["next_public_key"]
        fleet.registry = rotation.compromised(fleet.registry, {"node2": key})
        fleet.compile()
        fleet.apply()
        for member in fleet.members:
            assert not member.has(before["node2"])
        wait_for(
            lambda: wire.ping(one.host, two.address) and wire.ping(two.host, three.address), "it is back", 40
        )
    assert_nothing_lost(result, pairs=2)
    assert_over(fleet, before, ["node2"])
