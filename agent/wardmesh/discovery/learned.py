# SPDX-License-Identifier: Apache-2.0
"""What another cluster's store says, as one file for each cluster; in the form of document.py."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wardmesh.discovery.document import Discovered, discovered_document, discovered_of, read_sealed, sealed
from wardmesh.model.fleetmap import Address


class Pod(NamedTuple):
    """An address with its identity. host: address of the node that it is on; name: namespace/name."""

    address: Address
    identity: int
    host: Address | None = None
    name: str = ""


@dataclass(frozen=True)
class Learned:
    """nodes: the members, by plain names; identities: labels by number; pods: those with known labels."""

    nodes: Discovered
    identities: Mapping[int, frozenset[str]] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()


def write_learned(found: Learned) -> bytes:
    """The file's bytes."""
    rows = [[str(p.address), p.identity, str(p.host) if p.host else "", p.name] for p in found.pods]
    return sealed(
        {
            **discovered_document(found.nodes),
            "identities": {str(number): sorted(labels) for number, labels in found.identities.items()},
            "addresses": rows,
        }
    )


def read_learned(data: bytes, source: str) -> Learned:
    """The other way; WardmeshError where the file is not whole."""

    def read(document: Mapping[str, Any]) -> Learned:
        pods = [
            Pod(ipaddress.ip_address(text), int(number), _host(host), str(name))
            for text, number, host, name in document["addresses"]
        ]
        labels = {int(number): frozenset(held) for number, held in document["identities"].items()}
        return Learned(discovered_of(document, source, foreign=True), labels, tuple(pods))

    return read_sealed(data, source, read)


def _host(text: str) -> Address | None:
    return ipaddress.ip_address(text) if text else None
