# SPDX-License-Identifier: Apache-2.0
"""From a policy set to its enforcement on one host, as the fleet grows; and the controller's part of it."""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.report import REPO, Section, peak_memory

sys.path.insert(0, str(REPO))

FLEETS = (100, 1_000, 10_000)
RULES, GROUPS, PORTS = 1_000, 200, 500  # rules, values of the label that they select by, ports
CONTROLLER = 5_000


def _host(count: int, answers: Any) -> None:
    """In a process of its own, so that its memory is this size's alone."""
    from tests.bpf.harness import PYTHON, bpf_filesystem
    from tests.bpf.netns import Namespace
    from tests.fleets import numbered, rules

    from wardmesh.daemon.firewall_tables import host_tables
    from wardmesh.datapath.firewall import Firewall
    from wardmesh.policy.files import parse_policies

    held, text = numbered(count, GROUPS), rules(RULES, GROUPS, PORTS)
    namespace = Namespace()
    with namespace.entered(), tempfile.TemporaryDirectory() as name, bpf_filesystem(Path(name)) as paths:
        wall = Firewall(paths, 65_536, 4_096, 131_072, PYTHON)
        wall.ensure_loaded()
        times = [time.perf_counter()]
        parsed = parse_policies([("p.yaml", text)], "bench")
        times.append(time.perf_counter())
        tables = host_tables(parsed, held, "h1")
        times.append(time.perf_counter())
        wall.set_policy(tables)
        times.append(time.perf_counter())
        other = replace(held.members[5], labels={"app": "a77"})
        changed = replace(held, members=(*held.members[:5], other, *held.members[6:]))
        wall.set_policy(host_tables(parsed, changed, "h1"))
        times.append(time.perf_counter())
        wall.close()
    namespace.close()
    peak = peak_memory()
    answers.put(([after - before for before, after in itertools.pairwise(times)], peak))


def _measure(count: int) -> tuple[list[float], float]:
    process_context = get_context("spawn")
    answers = process_context.Queue()
    process = process_context.Process(target=_host, args=(count, answers))
    process.start()
    found: tuple[list[float], float] = answers.get(timeout=300)
    process.join()
    return found


def _controller() -> tuple[float, float]:
    """Seconds to parse and check the set, and to resolve every selector over the fleet."""
    from tests.fleets import numbered, rules

    from wardmesh.policy.engine import Engine
    from wardmesh.policy.files import parse_policies
    from wardmesh.policy.view import endpoints_of

    held, text = numbered(CONTROLLER, GROUPS), rules(RULES, GROUPS, PORTS)
    start = time.perf_counter()
    parsed = parse_policies([("p.yaml", text)], "bench")
    middle = time.perf_counter()
    engine = Engine(parsed, endpoints_of(held), "c")
    for name in list(engine.endpoints)[:GROUPS]:  # one of each label set: what differs among hosts
        for way in (True, False):
            engine.direction(engine.endpoints[name], way)
    return middle - start, time.perf_counter() - middle


def run(say: Callable[[str], None]) -> Section:
    """Three fleets, then the controller."""
    section = Section(
        "From policies to enforcement",
        f"{RULES:,} rules of which a tenth is for every host, {GROUPS} label sets; one host's part. "
        "Written to real maps; the last column is the peak of a process that does only this. "
        "One label: of one member, the whole way but parsing. `make bench PART=apply`",
        ("members", "parse s", "compile s", "write s", "apply to enforced s", "one label s", "memory MiB"),
    )
    for count in FLEETS:
        say(f"{count:,} members")
        (parse, compiled, write, label), peak = _measure(count)
        total = parse + compiled + write
        cells = [f"{value:.2f}" for value in (parse, compiled, write, total, label)]
        section.rows.append((f"{count:,}", *cells, f"{peak:.0f}"))
    say(f"the controller: {CONTROLLER:,} members")
    parse, resolve = _controller()
    section.rows.append((f"{CONTROLLER:,}, controller", f"{parse:.2f}", f"{resolve:.2f}", "", "", "", ""))
    return section
