# SPDX-License-Identifier: Apache-2.0
"""The parts that pytest runs: where they lie, which marks they take, how long they may take."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from checks.results import PartResult, read_junit
from checks.running import LOGS, REPO, TIMED_OUT, Progress, log_tail

NO_TESTS_COLLECTED = 5  # pytest's exit status


@dataclass(frozen=True)
class Suite:
    """One pytest run. `limit` in seconds is far above what it takes; it only ends a hang."""

    name: str
    folder: str
    limit: float
    marks: str = ""


SUITES = (
    Suite("unit", "tests/unit", 2400),
    # In a browser; drawing is done by the processor.
    Suite("ui", "tests/ui", 1200),
    Suite("bpf", "tests/bpf", 1200),
    # Real etcd servers on loopback ports.
    Suite("store", "tests/store", 1200),
    Suite("netns", "tests/netns", 1200),
    Suite("conformance", "tests/conformance", 600),
    Suite("lab", "tests/lab", 2700, marks="not vm and not beside"),
    # Labs of their own, which may stand beside the others'.
    Suite("beside", "tests/lab", 2700, marks="beside"),
    # Emulated processors: they take most of two cores.
    Suite("vm", "tests/lab", 2400, marks="vm and not slow"),
    # A quarter of an hour of emulated machines whose power goes.
    Suite("slow", "tests/lab", 2400, marks="slow"),
)


def run_suite(suite: Suite, progress: Progress) -> PartResult:
    """Run one suite and count its test cases."""
    result = PartResult(suite.name)
    folder = REPO / suite.folder
    if not any(folder.rglob("test_*.py")):
        result.notes.append(f"{suite.folder} holds no tests yet")
        return result
    log, junit = LOGS / f"{suite.name}.log", LOGS / f"{suite.name}.xml"
    junit.unlink(missing_ok=True)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "--tb=short",
        "--durations=10",
        f"--junitxml={junit}",
        suite.folder,
    ]
    if suite.marks:
        argv += ["-m", suite.marks]
    started = time.monotonic()
    status = progress.run(suite.name, argv, log, suite.limit)
    result.seconds = time.monotonic() - started
    if junit.exists():
        read_junit(result, junit)
    # A crash, a collection error or a time limit leaves no failed case behind, and must still fail the run.
    if status == NO_TESTS_COLLECTED:
        result.fail(f"{suite.folder} has test files, but none of their tests ran")
    elif status == TIMED_OUT:
        result.fail(f"ended after {suite.limit:.0f} s, see {log.relative_to(REPO)}")
    elif status != 0 and result.failed == 0:
        result.fail(f"pytest ended with exit status {status}, see {log.relative_to(REPO)}")
    if result.failed:
        progress.say(f"{suite.name}: the end of {log.relative_to(REPO)}:\n{log_tail(log, 60)}")
    return result
