# SPDX-License-Identifier: Apache-2.0
"""The fleet map: canonical bytes, every kind of damage, succession."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, check_succession, diff_maps, digest_of
from wardmesh.model.identity import identities
from wardmesh.model.map_parser import parse_fleet_map


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


def document(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "format": 1,
        "generation": 2,
        "cluster": {"name": "c", "id": 1},
        "members": [
            {"name": "a", "key": key(1), "addresses": ["10.0.0.1", "fd00::1"]},
            {
                "name": "b",
                "key": key(2),
                "addresses": ["10.0.0.2"],
                "endpoint": "203.0.113.7:1234",
                "keepalive": 25,
            },
        ],
    }
    made.update(changes)
    return made


def data(made: dict[str, Any]) -> bytes:
    return canonical({**made, "digest": digest_of(made)}) + b"\n"


def member(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "key": key(1), "addresses": ["10.0.0.1"], **changes}


BROKEN = [
    ("duplicate member", [member(), member(key=key(2), addresses=["10.0.0.2"])], "duplicate member a"),
    ("duplicate key", [member(), member(name="b", addresses=["10.0.0.2"])], "belongs to a already"),
    ("duplicate address", [member(), member(name="b", key=key(2))], "address 10.0.0.1 belongs to a already"),
    ("key of wrong length", [member(key="AAAA")], "members[0].key: a WireGuard public key is 32 bytes"),
    ("no address", [member(addresses=[])], "has no address"),
    (
        "overlapping allowed IPs",
        [member(allowedIPs=["10.5.0.0/16"]), member(name="b", key=key(2), addresses=["10.5.1.1"])],
        "overlap",
    ),
    ("everything behind one member", [member(allowedIPs=["0.0.0.0/0"])], "whole address space"),
    ("host bits in a network", [member(allowedIPs=["10.5.0.1/16"])], "no network"),
    ("loopback", [member(addresses=["127.0.0.1"])], "cannot be a member's address"),
    ("unknown key", [member(colour="red")], "members[0].colour: unknown key"),
    ("port without a name", [member(ports={"1": 80})], "members[0].ports.1: a port's name has"),
    ("port beyond the last", [member(ports={"web": 65536})], "members[0].ports.web: 65536 is no port"),
    ("ports as a list", [member(ports=["web"])], "members[0].ports: expected a map"),
    ("endpoint without port", [member(endpoint="10.0.0.9")], "not ADDRESS:PORT"),
]


@pytest.mark.parametrize(("members", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_members(members: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(WardmeshError, match="invalid fleet map") as caught:
        parse_fleet_map(data(document(members=members)), "fleet.json")
    assert words in caught.value.why


def test_cut_short_at_every_byte() -> None:
    whole = data(document())
    for length in range(len(whole) - 1):
        with pytest.raises(WardmeshError):
            parse_fleet_map(whole[:length], "f")


def test_altered() -> None:
    with pytest.raises(WardmeshError, match="digest"):
        parse_fleet_map(data(document()).replace(b"10.0.0.2", b"10.0.0.3"), "f")


def test_parsed() -> None:
    fleet = parse_fleet_map(data(document()), "f")
    assert [str(item.endpoint) for item in fleet.members] == ["10.0.0.1:51871", "203.0.113.7:1234"]
    assert [str(net) for net in fleet.members[0].networks()] == ["10.0.0.1/32", "fd00::1/128"]


def test_succession() -> None:
    old = parse_fleet_map(data(document()), "f")
    same = parse_fleet_map(data(document()), "f")
    newer = parse_fleet_map(data(document(generation=3, members=[member()])), "f")
    check_succession(None, old, "f")
    check_succession(old, same, "f")
    check_succession(old, newer, "f")
    with pytest.raises(WardmeshError, match="not newer"):
        check_succession(newer, old, "f")
    with pytest.raises(WardmeshError, match="not newer"):
        check_succession(old, parse_fleet_map(data(document(members=[member()])), "f"), "f")
    assert diff_maps(old, newer).removed == ("b",)


def test_equal_labels_share_a_number_and_others_do_not() -> None:
    fleet = parse_fleet_map(data(document()), "f")
    numbers = identities(fleet)
    assert len(set(numbers.values())) == 2  # the node's name is a label
    assert all(number >> 16 == 1 and number & 0xFFFF >= 256 for number in numbers.values())


def test_400_bytes_per_member() -> None:
    labels = {"app": "database", "env": "production", "team": "payments"}
    members = [
        member(
            name=f"host-{n:05d}.example.org",
            labels=labels,
            addresses=[f"10.{n >> 8}.{n & 255}.1", f"fd00::{n:x}"],
        )
        for n in range(1000)
    ]
    assert len(json.dumps(members, separators=(",", ":"))) / 1000 <= 400
