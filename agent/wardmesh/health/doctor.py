# SPDX-License-Identifier: Apache-2.0
"""Runs the checks over the facts. A check whose facts could not be read is unknown, and says why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable

from wardmesh.health.facts import Facts, Unread

OK, WARNING, PROBLEM, UNKNOWN = "ok", "warning", "problem", "unknown"


@dataclass(frozen=True)
class Judged:
    """What a check makes of its facts. seen: what was found; remedy: what to do, "" where nothing."""

    level: str
    seen: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """A check: the facts that it needs by their names, and its judgement, a pure function of them."""

    id: str
    title: str
    needs: tuple[str, ...]
    judge: Callable[..., Judged]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    id: str
    title: str
    level: str
    seen: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {
            "id": self.id,
            "title": self.title,
            "finding": self.level,
            "seen": self.seen,
            "remedy": self.remedy,
        }


def good(seen: str) -> Judged:
    """Nothing to do."""
    return Judged(OK, seen)


def examine(facts: Facts, checks: Iterable[Check]) -> list[Finding]:
    """Every check's finding, in order."""
    return [_examine(facts, check) for check in checks]


def _examine(facts: Facts, check: Check) -> Finding:
    values: list[Any] = [getattr(facts, name) for name in check.needs]
    reasons = dict.fromkeys(value.why for value in values if isinstance(value, Unread))
    if reasons:
        return Finding(check.id, check.title, UNKNOWN, "; ".join(reasons), "")
    found = check.judge(*values)
    return Finding(check.id, check.title, found.level, found.seen, found.remedy)


def worst(findings: Iterable[Finding]) -> str:
    """The gravest level; unknown is less than a warning."""
    order = (OK, UNKNOWN, WARNING, PROBLEM)
    return max((finding.level for finding in findings), key=order.index, default=OK)
