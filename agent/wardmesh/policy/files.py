# SPDX-License-Identifier: Apache-2.0
"""A set of policy files by name: checked as a whole, and told apart by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from wardmesh.model.errors import WardmeshError
from wardmesh.policy.documents import PolicySet, parse_text, policy_set, refuse_later

Files = Iterable[tuple[str, str]]


def parse_policies(files: Files, folder: str) -> PolicySet:
    """The files as one set that can be enforced; every broken one is told."""
    found, problems = [], []
    for name, text in files:
        try:
            found += parse_text(text, f"{folder}/{name}")
        except WardmeshError as error:
            problems.append(error)
    if len(problems) > 1:
        raise WardmeshError(
            f"{len(problems)} policy files are not valid",
            where=folder,
            why="; ".join(str(error) for error in problems),
            remedy="correct them; nothing was changed",
        )
    if problems:
        raise problems[0]
    held = policy_set(found)
    refuse_later(held)
    return held


def policy_digest(files: Files) -> str:
    """SHA-256 over names and texts."""
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()
