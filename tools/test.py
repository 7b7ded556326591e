# SPDX-License-Identifier: Apache-2.0
"""`make test`: runs every part, shows what it does, counts, and closes with `N passed, N failed`.

Parts run in two lanes side by side: one that computes (linters, ansible-test, unit tests) and one that mostly
waits for hosts (network namespaces, lab); the first ends with lab tests, too. Emulated machines come last and
have the processors to themselves. Logs are in .build/logs/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from checks.lint import run_lint
from checks.molecule import run_molecule
from checks.results import PartResult, closing_line, table
from checks.running import Progress
from checks.sanity import run_sanity
from checks.suites import SUITES, run_suite

# Lanes run side by side, the parts of a lane one after another.
LANES = (
    ("lint", "unit", "ui", "bpf", "conformance", "store", "sanity", "beside"),
    ("netns", "lab", "molecule"),
)
ALONE = (("vm",),)  # after them, with nothing beside it
PARTS = tuple(part for lane in LANES + ALONE for part in lane)


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


def run_lane(parts: Sequence[str], progress: Progress) -> list[PartResult]:
    """Run the parts of one lane; a crash of the driver itself is a failure of that part."""
    results = []
    for part in parts:
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
        results.append(result)
    return results


def run_stage(stage: Sequence[Sequence[str]], chosen: frozenset[str], progress: Progress) -> list[PartResult]:
    """Run the chosen parts of these lanes, the lanes side by side."""
    lanes = [lane for lane in ([part for part in lane if part in chosen] for lane in stage) if lane]
    with ThreadPoolExecutor(max_workers=len(stage)) as pool:
        futures = [pool.submit(run_lane, lane, progress) for lane in lanes]
        try:
            return [result for future in futures for result in future.result()]
        except KeyboardInterrupt:
            progress.stop_all()
            raise


def chosen_parts(words: Sequence[str]) -> list[str]:
    """The parts named on the command line, comma or space separated; all when none is."""
    names = [name for word in words for name in word.split(",") if name]
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)} (there are {', '.join(PARTS)})")
    return names or list(PARTS)


def main() -> int:
    """Run the chosen parts; 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=f"one or more of {', '.join(PARTS)}; all without")
    chosen = chosen_parts(parser.parse_args().part)
    progress = Progress()
    with progress.heartbeat():
        results = [
            result for stage in (LANES, ALONE) for result in run_stage(stage, frozenset(chosen), progress)
        ]
    failures = [f"{result.name}: {line}" for result in results for line in result.failures]
    if failures:
        print("\nWhat failed:\n" + "\n".join(f"  {line}" for line in failures))
    print(f"\n{table(results)}\n\n{closing_line(results)}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
