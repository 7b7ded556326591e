# SPDX-License-Identifier: Apache-2.0
"""A rollout of 10 and of 30 hosts, first and second run, against a ping play over the same hosts."""

from __future__ import annotations

from collections.abc import Callable

from bench.play import Controller, Run
from bench.report import Section, median
from lab import Lab

SECOND_RUN_LIMIT = 6.0  # times the ping play
FIRST_RUN_CPU = 0.45  # CPU seconds of the controller for each host


def run(say: Callable[[str], None], sizes: tuple[int, ...] = (10, 30), passes: int = 3) -> Section:
    """Each size in a lab of its own."""
    section = Section(
        "Rollout",
        "Containers with the packages installed, so that the first run is everything but their installation. "
        f"Second run and ping play alternate, medians of {passes} passes. CPU is the controller's "
        "with its ssh, by the settings of this repository's ansible.cfg; "
        "the hosts share its cores. `make bench PART=rollout`",
        ("hosts", "run", "seconds", "controller CPU-s", "CPU-s per host", "to the ping play, seconds"),
    )
    first: dict[int, Run] = {}
    for size in sizes:
        say(f"{size} hosts")
        lab = Lab.up(size, "bench")
        try:
            with Controller(lab) as controller:
                controller.play("ping")  # connections are open from here on, for all alike
                first[size] = controller.play("site")
                pairs = [(controller.play("ping"), controller.play("site")) for _pass in range(passes)]
        finally:
            lab.down()
        ping = Run(median([p.seconds for p, _s in pairs]), median([p.cpu for p, _s in pairs]))
        second = Run(median([s.seconds for _p, s in pairs]), median([s.cpu for _p, s in pairs]))
        for name, found in (("ping play", ping), ("first", first[size]), ("second", second)):
            cells = (f"{found.seconds:.1f}", f"{found.cpu:.1f}", f"{found.cpu / size:.2f}")
            section.rows.append((str(size), name, *cells, f"{found.seconds / ping.seconds:.1f}"))
        ratio = median([s.seconds / p.seconds for p, s in pairs])
        section.judge(f"second run to the ping play, {size} hosts", ratio, SECOND_RUN_LIMIT)
        section.judge(
            f"first run over the ping play, CPU-s of the controller per host, {size} hosts",
            (first[size].cpu - ping.cpu) / size,
            FIRST_RUN_CPU,
        )
    if len(sizes) > 1:
        section.rows.append(_growth(first, sizes))
    return section


def _growth(first: dict[int, Run], sizes: tuple[int, ...]) -> tuple[str, ...]:
    small, large = sizes[0], sizes[-1]
    growth = first[large].cpu / large / (first[small].cpu / small)
    return (f"{small} to {large}", "first", "", "", f"× {growth:.2f}", "")
