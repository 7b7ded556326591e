# SPDX-License-Identifier: Apache-2.0
"""Names with * in them, matched part by part in linear time: no pattern of a client can run away."""

from __future__ import annotations

import re
from collections.abc import Callable

from wardmesh.model.errors import WardmeshError

LONGEST = 256  # characters of a pattern
_FORM = re.compile(r"[-._*0-9a-z]+")


def wildcard(pattern: str) -> Callable[[str], bool]:
    """A test of names in small letters; WardmeshError where the pattern is none."""
    word = pattern.strip().lower()
    word = word[:-1] if word.endswith(".") else word
    if not _FORM.fullmatch(word) or word.endswith(".") or len(word) > LONGEST:
        raise WardmeshError(
            f"{pattern!r} is no name pattern", remedy="letters, digits, '-', '.', '_' and '*'"
        )
    head, *parts = word.split("*")
    if not parts:
        return lambda name: name == word
    *middle, tail = parts

    def test(name: str) -> bool:
        if len(name) < len(head) + len(tail) or not name.startswith(head) or not name.endswith(tail):
            return False
        place, end = len(head), len(name) - len(tail)
        for part in middle:  # the leftmost place of each part leaves the most for those behind it
            found = name.find(part, place, end)
            if found < 0:
                return False
            place = found + len(part)
        return True

    return test


def node_pattern(pattern: str) -> Callable[[str], bool]:
    """[cluster/][node] to a test of cluster/node; an empty part is any."""
    cluster, slash, node = pattern.rpartition("/")
    if not pattern or "/" in cluster:
        raise WardmeshError(f"{pattern!r} is no pattern of nodes", remedy="write node or cluster/node")
    tests = [wildcard(part) if part else None for part in ((cluster, node) if slash else ("", pattern))]

    def test(name: str) -> bool:
        parts = name.lower().split("/", 1) if "/" in name else ["default", name.lower()]
        return all(bool(part) and (own is None or own(part)) for own, part in zip(tests, parts))

    return test
