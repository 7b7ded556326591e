# SPDX-License-Identifier: Apache-2.0
"""Members, maps and records for the tests of discovery."""

from __future__ import annotations

import base64
from typing import Any

from wardmesh.discovery.backend import Entry
from wardmesh.discovery.document import Claim
from wardmesh.discovery.keys import node_key
from wardmesh.discovery.members import node_of
from wardmesh.discovery.records import write_node
from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import FleetMap, Member, canonical, digest_of
from wardmesh.model.map_parser import parse_fleet_map, parse_member

CLUSTER = Cluster("c", 7)


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def item(number: int, **more: Any) -> dict[str, Any]:
    return {
        "name": f"h{number}",
        "key": key(number),
        "addresses": [f"10.0.{number >> 8}.{number & 255}"],
        **more,
    }


def member(number: int, **more: Any) -> Member:
    return parse_member(item(number, **more), "test")


def fleet(*items: dict[str, Any]) -> FleetMap:
    document = {
        "format": 1,
        "generation": 3,
        "cluster": {"name": CLUSTER.name, "id": CLUSTER.id},
        "members": list(items),
    }
    return parse_fleet_map(canonical({**document, "digest": digest_of(document)}), "test")


def claim(number: int, since: int = 0, **more: Any) -> Claim:
    return Claim(member(number, **more), since or number)


def entry(found: Member, since: int = 1) -> Entry:
    value = write_node(node_of(found, CLUSTER, found.labels))
    return Entry(node_key(CLUSTER.name, found.name), value, since, since, 99)
