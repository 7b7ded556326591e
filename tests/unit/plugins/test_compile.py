# SPDX-License-Identifier: Apache-2.0
"""Registry and map: nobody leaves by accident, and the agent reads what the controller writes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from tests.loading import load

from wardmesh.model.fleetmap import PORT_NAME
from wardmesh.model.map_parser import parse_fleet_map

compiler = load("plugins/plugin_utils/_compile.py")


def facts(number: int, **more: Any) -> dict[str, Any]:
    return {
        "key": base64.b64encode(number.to_bytes(32, "big")).decode(),
        "key_generation": 1,
        "addresses": [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"],
        **more,
    }


def rollout(old: dict[str, Any], declared: dict[str, Any], remove: tuple[str, ...] = ()) -> tuple[Any, bytes]:
    merged, _warnings = compiler.merge(old, declared, list(remove))
    return compiler.compile_map(merged, "c", 1)


FLEET = {"a": facts(1), "b": facts(2, labels={"app": "db"}), "c": facts(3, endpoint="203.0.113.1:51871")}


def test_the_agent_reads_it() -> None:
    _registry, data = rollout(compiler.empty_registry(), FLEET)
    fleet = parse_fleet_map(data, "f")
    assert [member.name for member in fleet.members] == ["a", "b", "c"]
    assert fleet.members[1].labels == {"app": "db"}
    assert fleet.generation == 1


def test_same_content_same_bytes_and_generation() -> None:
    registry, data = rollout(compiler.empty_registry(), FLEET)
    again, same = rollout(registry, FLEET)
    assert (again, same) == (registry, data)


def test_a_silent_host_stays() -> None:
    registry, data = rollout(compiler.empty_registry(), FLEET)
    silent = {**FLEET, "b": {"key": "", "addresses": [], "labels": {"app": "db"}}}
    assert rollout(registry, silent)[1] == data


def test_labels_of_the_host_stay_while_it_is_silent_and_the_inventory_decides() -> None:
    host = {"a": facts(1, own_labels={"app": "web", "env": "test"}, labels={"env": "prod"})}
    registry, data = rollout(compiler.empty_registry(), host)
    assert parse_fleet_map(data, "map").members[0].labels == {"app": "web", "env": "prod"}
    registry, data = rollout(registry, {"a": {"own_labels": None}})
    assert parse_fleet_map(data, "map").members[0].labels == {"app": "web", "env": "test"}
    registry, data = rollout(registry, {"a": facts(1, own_labels={})})
    assert parse_fleet_map(data, "map").members[0].labels == {}


def test_controller_and_agent_mean_the_same_by_the_name_of_a_port() -> None:
    assert compiler._PORT_NAME.pattern == PORT_NAME.pattern


def test_names_of_ports_come_from_the_inventory_and_go_with_it() -> None:
    registry, data = rollout(compiler.empty_registry(), {"a": facts(1, ports={"web": 80}), "b": facts(2)})
    assert [member.ports for member in parse_fleet_map(data, "map").members] == [{"web": 80}, {}]
    _registry, data = rollout(registry, {"a": facts(1), "b": facts(2)})
    assert parse_fleet_map(data, "map").members[0].ports == {}


def test_a_host_that_left_the_inventory_stays_with_a_warning() -> None:
    registry, data = rollout(compiler.empty_registry(), FLEET)
    fewer = {name: FLEET[name] for name in ("a", "b")}
    _merged, warnings = compiler.merge(registry, fewer, [])
    assert "decommission" in warnings[0]
    assert rollout(registry, fewer)[1] == data


def test_removal_is_a_tombstone() -> None:
    registry, _data = rollout(compiler.empty_registry(), FLEET)
    after, data = rollout(registry, {name: FLEET[name] for name in ("a", "b")}, ("c",))
    assert after["tombstones"] == ["c"]
    assert parse_fleet_map(data, "f").generation == 2
    assert [member.name for member in parse_fleet_map(data, "f").members] == ["a", "b"]


def test_shrink_guard() -> None:
    old = {"members": {str(number): {} for number in range(10)}}
    compiler.guard_shrink(old, {"members": {name: {} for name in "01234567"}}, 20)
    with pytest.raises(compiler.FleetMapError, match="wardmesh_allow_shrink"):
        compiler.guard_shrink(old, {"members": {name: {} for name in "0123456"}}, 20)


BROKEN = [
    (
        "address",
        {"a": facts(1), "b": {**facts(2), "addresses": ["10.0.0.1"]}},
        "address 10.0.0.1 belongs to a",
    ),
    ("key", {"a": facts(1), "b": {**facts(2), "key": facts(1)["key"]}}, "key"),
    ("overlap", {"a": facts(1, allowed_ips=["10.0.0.0/24"]), "b": facts(2)}, "overlap"),
    ("no address", {"a": {**facts(1), "addresses": []}}, "no address"),
    ("key length", {"a": {**facts(1), "key": "AAAA"}}, "32 bytes"),
    ("name of a port", {"a": facts(1, ports={"Web": 80})}, "a: wardmesh_ports: 'Web' is no name"),
    ("number of a port", {"a": facts(1, ports={"web": "80"})}, "a: wardmesh_ports: '80' is no port"),
    ("ports as a list", {"a": facts(1, ports=["web"])}, "a: wardmesh_ports is no map"),
]


@pytest.mark.parametrize(("fleet", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_preflight_of_the_map(fleet: dict[str, Any], words: str) -> None:
    with pytest.raises(compiler.FleetMapError, match=words):
        rollout(compiler.empty_registry(), fleet)


def test_who_gets_a_key_in_a_real_run_changes_the_map() -> None:
    """Check mode says so of hosts that are new, and of known ones that were installed anew."""
    registry, _data = rollout(compiler.empty_registry(), FLEET)
    looked_at = {name: {**given, "looked_at": True} for name, given in FLEET.items()}
    assert compiler.keyless(registry, looked_at, []) == []
    anew = {**looked_at, "b": {**looked_at["b"], "key": ""}, "d": {"looked_at": True, "key": ""}}
    assert compiler.keyless(registry, anew, []) == ["b", "d"]
    assert compiler.keyless(registry, anew, ["b"]) == ["d"]
    away = {**looked_at, "b": {**looked_at["b"], "key": "", "looked_at": False}}
    assert compiler.keyless(registry, away, []) == []
