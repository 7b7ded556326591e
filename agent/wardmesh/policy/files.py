# SPDX-License-Identifier: Apache-2.0
"""A set of policy files by name: checked as a whole, and told apart by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from wardmesh.model.errors import WardmeshError
from wardmesh.policy.documents import CidrGroup, Policy, PolicySet, parse_text, policy_set, refuse_later

Files = Iterable[tuple[str, str]]
_read: dict[tuple[str, str], list[Policy | CidrGroup]] = {}  # of the last set, by place and text


def parse_policies(files: Files, folder: str) -> PolicySet:
    """The files as one set that can be enforced; every broken one is told. Of two sets in a row mostly one
    file differs, and the others are not read again."""
    global _read
    known = _read  # another thread may look at a set meanwhile
    read: dict[tuple[str, str], list[Policy | CidrGroup]] = {}
    problems = []
    for name, text in files:
        key = f"{folder}/{name}", text
        try:
            read[key] = known.get(key) or parse_text(text, key[0])
        except WardmeshError as error:
            problems.append(error)
    _read = read
    if len(problems) > 1:
        raise WardmeshError(
            f"{len(problems)} policy files are not valid",
            where=folder,
            why="; ".join(str(error) for error in problems),
            remedy="correct them; nothing was changed",
        )
    if problems:
        raise problems[0]
    held = policy_set([document for documents in read.values() for document in documents])
    refuse_later(held)
    return held


def policy_digest(files: Files) -> str:
    """SHA-256 over names and texts."""
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()
