# SPDX-License-Identifier: Apache-2.0
"""`make test`: runs every part, shows what it does, counts, and closes with `N passed, N failed`.

Two parts run side by side, whatever is next when one ends; those that take longest begin, and what they leave
of the processors is for the unit tests. Emulated machines come last and have the processors; what they leave
is for the linters. Logs are in .build/logs/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from checks.lint import run_lint
from checks.molecule import run_molecule
from checks.results import PartResult, closing_line, table
from checks.running import Progress, processors
from checks.sanity import run_sanity
from checks.suites import SUITES, run_suite

# The longest first, so that the workers end at about the same time; the sums say which those are.
TOGETHER = ("lab", "beside", "netns", "bpf", "store", "molecule")
WORKERS = 2  # as many as the smallest machine has processors
WHILE = ("unit", "conformance")  # meanwhile: labs wait a sixth of their time
ALONE = ("vm",)  # after them; emulated machines should have the processors when they want them
BEHIND = ("sanity", "ui", "lint")  # meanwhile, in the time that they leave: a third of it
LITTLE, ALL = 5, 19  # how nice: WHILE's tests talk to sockets with limits of seconds and must not starve
# Only where it is named: with it the whole would take longer than three quarters of an hour.
EXTRA = ("slow",)
PARTS = TOGETHER + WHILE + ALONE + BEHIND


def runner_of(part: str) -> Callable[[Progress], PartResult]:
    """The function that runs the part of that name."""
    if part == "lint":
        return run_lint
    if part == "sanity":
        return run_sanity
    if part == "molecule":
        return run_molecule
    suite = next(suite for suite in SUITES if suite.name == part)
    return lambda progress: run_suite(suite, progress)


def run_part(part: str, progress: Progress) -> PartResult:
    """Run one part; a crash of the driver itself is a failure of that part."""
    progress.say(f"{part}: starts")
    try:
        result = runner_of(part)(progress)
    except Exception as error:  # noqa: BLE001
        result = PartResult(part)
        result.fail(f"the driver broke: {type(error).__name__}: {error}")
    for note in result.notes:
        progress.say(f"{part}: {note}")
    progress.say(
        f"{part}: {result.passed} passed, {result.failed} failed, {result.skipped} skipped"
        f" ({result.seconds:.1f} s)"
    )
    return result


def run_behind(part: str, progress: Progress) -> PartResult:
    """Run one part after others."""
    with progress.behind(LITTLE if part in WHILE else ALL):
        return run_part(part, progress)


def run_parts(
    parts: Sequence[str],
    chosen: Collection[str],
    workers: int,
    progress: Progress,
    behind: Sequence[str] = (),
) -> list[PartResult]:
    """Run the chosen ones of these, so many side by side; one after another those that stand behind."""
    with ThreadPoolExecutor(max_workers=workers) as pool, ThreadPoolExecutor(max_workers=1) as other:
        futures = [pool.submit(run_part, part, progress) for part in parts if part in chosen]
        futures += [other.submit(run_behind, part, progress) for part in behind if part in chosen]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            for one in (pool, other):
                one.shutdown(wait=False, cancel_futures=True)
            progress.stop_all()
            raise


def chosen_parts(words: Sequence[str]) -> list[str]:
    """The parts named on the command line, comma or space separated; all when none is."""
    names = [name for word in words for name in word.split(",") if name]
    unknown = sorted(set(names) - {*PARTS, *EXTRA})
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)} (there are {', '.join(PARTS + EXTRA)})")
    return names or list(PARTS)


def main() -> int:
    """Run the chosen parts; 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=f"one or more of {', '.join(PARTS)}; all without")
    chosen = chosen_parts(parser.parse_args().part)
    progress, busy = Progress(), processors()
    with progress.heartbeat():
        results = run_parts(TOGETHER, chosen, WORKERS, progress, WHILE)
        together = busy()
        results += run_parts(ALONE + EXTRA, chosen, 1, progress, BEHIND)
    failures = [f"{result.name}: {line}" for result in results for line in result.failures]
    if failures:
        print("\nWhat failed:\n" + "\n".join(f"  {line}" for line in failures))
    print(f"\n{table(results)}\n\nprocessors: {together:.0%} busy while parts ran side by side")
    print(f"\n{closing_line(results)}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
