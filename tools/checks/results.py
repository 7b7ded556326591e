# SPDX-License-Identifier: Apache-2.0
"""Counting: what one part of the test run found, read from pytest's JUnit file or from plain exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

# The one reason for which a test may skip: the project's shared facts are not beside the checkout.
SHARED_ABSENT = "../shared is not beside this checkout"


@dataclass
class PartResult:
    """What one part found. `failures` holds one line per failed test, `notes` what a reader should know."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fail(self, line: str) -> None:
        """Count one failure that is described by `line`."""
        self.failed += 1
        self.failures.append(line)


def read_junit(result: PartResult, path: Path) -> None:
    """Add the test cases of a JUnit file to `result`.

    A skip for any other reason than SHARED_ABSENT is a failure.
    """
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        problem = case.find("failure")
        if problem is None:
            problem = case.find("error")
        skip = case.find("skipped")
        if problem is not None:
            result.fail(f"{name}: {_first_line(problem)}")
        elif skip is None:
            result.passed += 1
        elif SHARED_ABSENT in (skip.get("message") or ""):
            result.skipped += 1
        else:
            result.fail(f"{name}: skipped, and only an absent ../shared excuses that: {skip.get('message')}")


def _first_line(element: ElementTree.Element) -> str:
    text = element.get("message") or element.text or "no message"
    return text.strip().splitlines()[0][:200] if text.strip() else "no message"


def table(results: Sequence[PartResult]) -> str:
    """A plain table: part, passed, failed, skipped, seconds."""
    head = f"{'part':<14}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}"
    rows = [f"{r.name:<14}{r.passed:>8}{r.failed:>8}{r.skipped:>9}{r.seconds:>9.1f}" for r in results]
    return "\n".join([head, "-" * len(head), *rows])


def closing_line(results: Iterable[PartResult]) -> str:
    """`N passed, N failed`, with `, N skipped` only when something was skipped."""
    parts = list(results)
    line = f"{sum(r.passed for r in parts)} passed, {sum(r.failed for r in parts)} failed"
    skipped = sum(r.skipped for r in parts)
    return f"{line}, {skipped} skipped" if skipped else line
