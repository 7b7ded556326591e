# SPDX-License-Identifier: Apache-2.0
"""wardmesh doctor: what is wrong with this host, and what to do about it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

from wardmesh.cli.doctor_facts import gather
from wardmesh.cli.output import emit, paths_of
from wardmesh.health.checks_host import CHECKS
from wardmesh.health.doctor import PROBLEM, Finding, examine, worst
from wardmesh.host.paths import Paths

_MARKS = {"ok": "ok      ", "warning": "WARNING ", "problem": "PROBLEM ", "unknown": "unknown "}


def findings(paths: Paths) -> list[Finding]:
    """All checks of this host."""
    return examine(gather(paths), CHECKS)


def document(found: Iterable[Finding]) -> dict[str, Any]:
    """The form of -o json."""
    rows = list(found)
    return {"worst": worst(rows), "checks": [finding.as_dict() for finding in rows]}


def words(found: Iterable[Finding]) -> str:
    """A line for each check, and its remedy below it."""
    lines = []
    for finding in found:
        lines.append(f"{_MARKS[finding.level]}{finding.title}: {finding.seen}")
        if finding.remedy:
            lines.append(f"           → {finding.remedy}")
    return "\n".join(lines)


def doctor(args: argparse.Namespace) -> int:
    """Print the findings; 1 with a problem."""
    found = findings(paths_of(args))
    counts = {level: sum(finding.level == level for finding in found) for level in _MARKS}
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    text = f"{words(found)}\n{told}"
    if counts["unknown"] and os.geteuid():
        text += "\nrun it as root to see what is unknown"
    emit(args, document(found), text)
    return 1 if worst(found) == PROBLEM else 0
