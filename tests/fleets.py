# SPDX-License-Identifier: Apache-2.0
"""Fleets of any size, for tests and benchmarks."""

from __future__ import annotations

import base64

from wardmesh.model.fleetmap import FleetMap, canonical, digest_of, parse_fleet_map


def numbered(count: int, groups: int) -> FleetMap:
    """Members h1, h2, … of a cluster c; the label app has one of so many values, a0, a1, …"""
    members = [
        {
            "name": f"h{number}",
            "key": base64.b64encode(number.to_bytes(32, "big")).decode(),
            "addresses": [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"],
            "labels": {"app": f"a{number % groups}"},
        }
        for number in range(1, count + 1)
    ]
    document = {"format": 1, "generation": 1, "cluster": {"name": "c", "id": 1}, "members": members}
    return parse_fleet_map(canonical({**document, "digest": digest_of(document)}) + b"\n", "numbered")
