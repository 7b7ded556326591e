# SPDX-License-Identifier: Apache-2.0
"""What was learned from the store, as one file: the agent goes on with it when the store is away.

Canonical JSON with a digest, like the fleet map: a file cut short is refused, and the last good one stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wardmesh.discovery.members import member_document
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member, canonical, digest_of, parse_member

FORMAT = 1


@dataclass(frozen=True)
class Claim:
    """A member by its own word. since: the store's revision that made the record; the first wins."""

    member: Member
    since: int = 0


@dataclass(frozen=True)
class Departed:
    """A member whose lease is gone. left: seconds of connection to the store until its addresses are free."""

    claim: Claim
    left: float


@dataclass(frozen=True)
class Discovered:
    """Everything that was learned; claims and departed by name."""

    cluster: Cluster
    claims: Mapping[str, Claim] = field(default_factory=dict)
    departed: Mapping[str, Departed] = field(default_factory=dict)


def write_discovered(found: Discovered) -> bytes:
    """The file's bytes."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "cluster": {"name": found.cluster.name, "id": found.cluster.id},
        "members": [_claim(found.claims[name]) for name in sorted(found.claims)],
        "departed": [
            {**_claim(found.departed[name].claim), "left": round(found.departed[name].left)}
            for name in sorted(found.departed)
        ],
    }
    return canonical({**document, "digest": digest_of(document)}) + b"\n"


def _claim(claim: Claim) -> dict[str, Any]:
    return {"member": member_document(claim.member), "since": claim.since}


def read_discovered(data: bytes, source: str) -> Discovered:
    """The other way; WardmeshError where the file is not whole."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT or document["digest"] != digest_of(document):
            raise ValueError("format or digest does not fit")
        cluster = Cluster(str(document["cluster"]["name"]), int(document["cluster"]["id"]))
        claims = [_read_claim(item, source) for item in document["members"]]
        departed = [Departed(_read_claim(item, source), float(item["left"])) for item in document["departed"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WardmeshError(
            "damaged copy of the store's members",
            where=source,
            why=f"{type(error).__name__}: {error}",
            remedy="none is needed: the last good copy stays in force, and the store gives a new one",
        ) from error
    return Discovered(
        cluster,
        {claim.member.name: claim for claim in claims},
        {item.claim.member.name: item for item in departed},
    )


def _read_claim(item: Mapping[str, Any], source: str) -> Claim:
    return Claim(parse_member(item["member"], source), int(item["since"]))
