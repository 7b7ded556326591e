# SPDX-License-Identifier: Apache-2.0
"""Molecule scenarios, as a user of the collection would run them in CI; each scenario counts as one."""

from __future__ import annotations

import time

from checks.results import PartResult
from checks.running import LOGS, REPO, Progress, log_tail

LIMIT_SECONDS = 600.0
# Of the others each promise is tested in tests/lab already; `make molecule SCENARIO=all` runs them.
SCENARIOS = ("default",)


def run_molecule(progress: Progress) -> PartResult:
    """Run the scenarios one after another, also after one has failed."""
    result = PartResult("molecule")
    started = time.monotonic()
    env = {"NO_COLOR": "1"}
    for name in SCENARIOS:
        log = LOGS / f"molecule-{name}.log"
        argv = [str(REPO / "tools/molecule.sh"), name]
        status = progress.run(f"molecule {name}", argv, log, LIMIT_SECONDS, env)
        if status == 0:
            result.passed += 1
        else:
            result.fail(f"{name}: exit status {status}, see {log.relative_to(REPO)}")
            progress.say(f"molecule: the end of {log.relative_to(REPO)}:\n{log_tail(log, 60)}")
    result.seconds = time.monotonic() - started
    return result
