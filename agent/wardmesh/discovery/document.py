# SPDX-License-Identifier: Apache-2.0
"""What was learned from the store, as one file: the agent goes on with it when the store is away.

Canonical JSON with a digest, like the fleet map: a file cut short is refused, and the last good one stays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from wardmesh.discovery.members import member_document
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member, canonical, digest_of
from wardmesh.model.map_parser import parse_member

FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """A member by its own word. since: the store's revision that made the record; the first wins. former:
    beginnings of keys that it had before (see members.shortened)."""

    member: Member
    since: int = 0
    former: tuple[str, ...] = ()


@dataclass(frozen=True)
class Departed:
    """A member whose lease is gone. left: seconds of connection to the store until its addresses are free."""

    claim: Claim
    left: float


@dataclass(frozen=True)
class Discovered:
    """Everything that was learned; claims and departed by name. rotated: last words of members that departed
    longer ago, who had changed their key by themselves: the rolled-out map may not know it yet."""

    cluster: Cluster
    claims: Mapping[str, Claim] = field(default_factory=dict)
    departed: Mapping[str, Departed] = field(default_factory=dict)
    rotated: Mapping[str, Claim] = field(default_factory=dict)


def write_discovered(found: Discovered, known: dict[str, tuple[Claim, bytes]] | None = None) -> bytes:
    """The file's bytes. known: what was written of each claim before; few of thousands change between two."""
    members = texts(found.claims, {} if known is None else known, _claim)
    return sealed_with_members(discovered_document(replace(found, claims={})), members)


def texts(
    items: Mapping[str, T], known: dict[str, tuple[T, bytes]], document: Callable[[T], Mapping[str, Any]]
) -> list[bytes]:
    """Each item in canonical JSON, sorted by name. known: what this gave last, by name; an item that is the
    same object is not written again, and what is no item any more is forgotten."""
    for name in known.keys() - items.keys():
        del known[name]
    for name, item in items.items():
        before = known.get(name)
        if before is None or before[0] is not item:
            known[name] = (item, canonical(document(item)))
    return [known[name][1] for name in sorted(items)]


def sealed_with_members(document: Mapping[str, Any], members: list[bytes]) -> bytes:
    """A file with its digest. document: it, with an empty list of members; members: their texts."""
    whole = with_members(canonical(document), members)
    digest = f"sha256:{hashlib.sha256(whole).hexdigest()}"
    return with_members(canonical({**document, "digest": digest}), members) + b"\n"


def with_members(empty: bytes, members: list[bytes]) -> bytes:
    """Canonical JSON again, of a document whose members were left out; among its keys the last of that name.
    No string can hold the bytes that are looked for: in JSON its quotes would be escaped."""
    before, key, after = empty.rpartition(b'"members":[')
    return before + key + b",".join(members) + after


def sealed(document: Mapping[str, Any]) -> bytes:
    """With its digest."""
    return canonical({**document, "digest": digest_of(document)}) + b"\n"


def discovered_document(found: Discovered) -> dict[str, Any]:
    """Before its digest is there."""
    return {
        "format": FORMAT,
        "cluster": {"name": found.cluster.name, "id": found.cluster.id},
        "members": [_claim(found.claims[name]) for name in sorted(found.claims)],
        "departed": [
            {**_claim(found.departed[name].claim), "left": round(found.departed[name].left)}
            for name in sorted(found.departed)
        ],
        "rotated": [_claim(found.rotated[name]) for name in sorted(found.rotated)],
    }


def _claim(claim: Claim) -> dict[str, Any]:
    former = {"former": list(claim.former)} if claim.former else {}
    return {"member": member_document(claim.member), "since": claim.since, **former}


_read: dict[str, Claim] = {}  # the claims of the last file by their text: few change between two


def read_discovered(data: bytes, source: str) -> Discovered:
    """The other way; WardmeshError where the file is not whole."""
    return read_sealed(data, source, lambda document: discovered_of(document, source))


def read_sealed(data: bytes, source: str, read: Callable[[Mapping[str, Any]], T]) -> T:
    """What read makes of the document, which is whole."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT or document["digest"] != digest_of(document):
            raise ValueError("format or digest does not fit")
        return read(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WardmeshError(
            "damaged copy of the store's members",
            where=source,
            why=f"{type(error).__name__}: {error}",
            remedy="none is needed: the last good copy stays in force, and the store gives a new one",
        ) from error


def discovered_of(document: Mapping[str, Any], source: str, *, foreign: bool = False) -> Discovered:
    """Members by their plain names. foreign: they are of another cluster."""
    cluster = Cluster(str(document["cluster"]["name"]), int(document["cluster"]["id"]))
    other = cluster if foreign else None
    items = document["members"]
    claims = [_read_claim(item, source, other) for item in items] if foreign else _read_claims(items, source)
    departed = [
        Departed(_read_claim(item, source, other), float(item["left"])) for item in document["departed"]
    ]
    rotated = [_read_claim(item, source, other) for item in document.get("rotated", [])]
    return Discovered(
        cluster,
        {plain(claim.member): claim for claim in claims},
        {plain(item.claim.member): item for item in departed},
        {plain(claim.member): claim for claim in rotated},
    )


def plain(member: Member) -> str:
    """A member's name in its own cluster."""
    return member.name.rpartition("/")[2]


def _read_claims(items: list[Mapping[str, Any]], source: str) -> list[Claim]:
    """Those of the own cluster."""
    fresh: dict[str, Claim] = {}
    for item in items:
        text = json.dumps(item)
        fresh[text] = _read.get(text) or _read_claim(item, source, None)
    _read.clear()
    _read.update(fresh)
    return list(fresh.values())


def _read_claim(item: Mapping[str, Any], source: str, cluster: Cluster | None) -> Claim:
    former = tuple(map(str, item.get("former", [])))
    return Claim(parse_member(item["member"], source, cluster), int(item["since"]), former)
