# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds for a packet through the guard's programs, against an empty one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.report import REPO, Section

sys.path.insert(0, str(REPO))


def run(say: Callable[[str], None], repeat: int = 1_000_000, passes: int = 5) -> Section:
    """In a namespace of its own."""
    from tests.bpf.harness import loaded_bench, verdict_costs
    from tests.bpf.netns import Namespace

    namespace = Namespace()
    try:
        with namespace.entered(), tempfile.TemporaryDirectory() as name:
            say("the guard")
            with loaded_bench(Path(name)) as bench:
                guard = verdict_costs(bench, repeat, passes)
    finally:
        namespace.close()
    section = Section(
        "The guard's verdicts",
        f"BPF_PROG_TEST_RUN of one packet, {repeat} times, medians of {passes} passes, in each of "
        "which all cases run. `make bench PART=verdict`",
        ("case", "ns", "to empty"),
    )
    for case, cost in guard.items():
        section.rows.append((case, f"{cost:.0f}", f"{cost / guard['empty program']:.1f}"))
    return section
