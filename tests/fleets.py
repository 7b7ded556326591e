# SPDX-License-Identifier: Apache-2.0
"""Fleets of any size, for tests and benchmarks."""

from __future__ import annotations

import base64

from wardmesh.model.fleetmap import FleetMap, canonical, digest_of
from wardmesh.model.map_parser import parse_fleet_map


def numbered(count: int, groups: int) -> FleetMap:
    """Members h1, h2, … of a cluster c; the label app has one of so many values, a0, a1, …"""
    return parse_fleet_map(numbered_bytes(count, groups), "numbered")


def numbered_bytes(count: int, groups: int) -> bytes:
    """The same as it lies on a host."""
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
    return canonical({**document, "digest": digest_of(document)}) + b"\n"


def rules(count: int, groups: int, ports: int) -> str:
    """So many policies of one rule, each from one value of the label to another on one of so many ports, the
    first of them 2000; one in ten is for every host."""
    lines = []
    for number in range(count):
        selector = "{}" if number % 10 == 0 else f"{{matchLabels: {{app: a{number % groups}}}}}"
        lines.append(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
            f"metadata: {{name: p{number}}}\nspec:\n  endpointSelector: {selector}\n  ingress:\n"
            f"  - fromEndpoints: [{{matchLabels: {{app: a{(number * 7 + 1) % groups}}}}}]\n"
            f'    toPorts: [{{ports: [{{port: "{2000 + number % ports}", protocol: TCP}}]}}]\n'
        )
    return "".join(lines)
