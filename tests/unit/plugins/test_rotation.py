# SPDX-License-Identifier: Apache-2.0
"""What a rotation does to the registry, and that agent and controller find the same maps good."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.loading import REPO, load

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.model.map_parser import parse_fleet_map

compiler = load("plugins/plugin_utils/_compile.py")
rotation = load("plugins/plugin_utils/_rotation.py")
VECTORS = json.loads((REPO / "tests/vectors/fleetmap/rotation.json").read_text())


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def registry(**next_keys: str) -> dict[str, Any]:
    members: dict[str, Any] = {
        name: {"key": key(number), "key_generation": 1, "addresses": [f"10.0.0.{number}"]}
        for number, name in enumerate("abc", 1)
    }
    for name, following in next_keys.items():
        members[name]["next_key"] = following
    return {**compiler.empty_registry(), "members": members}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_both_sides_judge_a_map_alike(vector: dict[str, Any]) -> None:
    members = [
        {**member, **{field: key(member[field]) for field in ("key", "nextKey") if field in member}}
        for member in vector["members"]
    ]
    document = {"format": 1, "generation": 1, "cluster": {"name": "c", "id": 1}, "members": members}
    data = canonical({**document, "digest": digest_of(document)}) + b"\n"
    if vector["good"]:
        compiler.check(members)
        fleet = parse_fleet_map(data, "map")
        assert [m.next_key for m in fleet.members] == [m.get("nextKey", "") for m in members]
        return
    with pytest.raises(compiler.FleetMapError, match=vector["words"]):
        compiler.check(members)
    with pytest.raises(WardmeshError, match=vector["words"]):
        parse_fleet_map(data, "map")


def test_staging_writes_a_map_that_the_agent_reads() -> None:
    staged = rotation.stage(registry(), {"a": key(11), "c": key(13)})
    assert rotation.rotating(staged) == ["a", "c"]
    _new, data = compiler.compile_map(staged, "c", 1)
    assert [(m.name, m.next_key) for m in parse_fleet_map(data, "map").members] == [
        ("a", key(11)),
        ("b", ""),
        ("c", key(13)),
    ]
    assert rotation.stage(staged, {"a": key(11)}) == staged


def test_who_has_a_second_tunnel() -> None:
    one = registry(a=key(11))
    assert rotation.partners(one, "a") == {"b", "c"}
    assert rotation.partners(one, "b") == {"a"}
    assert rotation.partners(registry(), "a") == set()


@pytest.mark.parametrize(
    ("staged", "words"),
    [
        ({"z": key(9)}, "z is no member"),
        ({"a": ""}, "a reported no next key"),
        ({"a": key(1)}, "a has not put"),
    ],
)
def test_what_cannot_be_staged_is_named(staged: dict[str, str], words: str) -> None:
    with pytest.raises(rotation.RotationError, match=words):
        rotation.stage(registry(), staged)


def reports(**changes: Any) -> dict[str, Any]:
    full = {
        "a": {"fleet": "d", "sending": ["b", "c"]},
        "b": {"fleet": "d", "sending": ["a"]},
        "c": {"fleet": "d", "sending": ["a"]},
    }
    return {name: report for name, report in {**full, **changes}.items() if report is not None}


def test_old_keys_go_when_everybody_uses_the_new_ones() -> None:
    after = rotation.retire(registry(a=key(11)), reports(), "d")
    assert rotation.rotating(after) == []
    assert [after["members"][name]["key"] for name in "abc"] == [key(11), key(2), key(3)]
    assert [after["members"][name]["key_generation"] for name in "abc"] == [2, 1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b": None}, "b did not report"),
        ({"c": {"fleet": "old", "sending": ["a"]}}, "c has another fleet map"),
        ({"a": {"fleet": "d", "sending": ["b"]}}, "a does not send through the second tunnel to c"),
        ({"c": {"fleet": "d", "sending": []}}, "c does not send through the second tunnel to a"),
    ],
)
def test_one_member_that_is_not_there_keeps_every_old_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(rotation.RotationError, match=words):
        rotation.retire(registry(a=key(11)), reports(**change), "d")


def test_retiring_when_nothing_rotates_changes_nothing() -> None:
    assert rotation.retire(registry(), {}, "d") == registry()


def test_a_compromised_key_goes_at_once_and_other_rotations_go_on() -> None:
    after = rotation.compromised(registry(b=key(12)), {"a": key(11)})
    assert after["members"]["a"]["key"] == key(11)
    assert rotation.rotating(after) == ["b"]


def merged(old: dict[str, Any], **facts: Any) -> dict[str, Any]:
    declared = {name: {} for name in old["members"]}
    found: dict[str, Any] = compiler.merge(old, {**declared, "a": facts}, [])[0]["members"]["a"]
    return found


def test_an_ordinary_run_keeps_what_was_staged() -> None:
    assert merged(registry(a=key(11)), key=key(1))["next_key"] == key(11)
    assert merged(registry(a=key(11)))["next_key"] == key(11)


def test_a_host_that_has_not_got_the_last_map_yet_does_not_bring_its_old_key_back() -> None:
    after = rotation.retire(registry(a=key(11)), reports(), "d")
    assert merged(after, key=key(1), next_key=key(11), key_generation=1)["key"] == key(11)
    assert merged(after, key=key(1), next_key=key(11), key_generation=1)["key_generation"] == 2


def test_a_host_that_was_installed_anew_leaves_the_rotation() -> None:
    entry = merged(registry(a=key(11)), key=key(7))
    assert entry["key"] == key(7) and "next_key" not in entry


def test_a_lost_registry_entry_is_the_hosts_again() -> None:
    """The registry was restored from before the rotation's end: the host's own key counts."""
    assert merged(registry(a=key(11)), key=key(11), key_generation=2) == {
        "key": key(11),
        "key_generation": 2,
        "addresses": ["10.0.0.1"],
    }
