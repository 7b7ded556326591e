# SPDX-License-Identifier: Apache-2.0
"""Who drifted, among agents that do not exist: asking them all, and comparing their answers."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from bench.report import REPO, Section, median, peak_memory
from wardmesh.health.asking import ask_all
from wardmesh.health.drift import PARTS, Part, Report, compare, document, judge_all, reference_of
from wardmesh.health.record import Peer

sys.path.insert(0, str(REPO))

SIZES = (100, 300, 1000)
LIMIT = 3.0  # seconds for the largest
WRONG_EVERY = 10  # agents, one of which drifted


def report(name: str, *, wrong: bool) -> Report:
    """What an agent of a fleet with policies says."""
    values = {"digest": "5" * 64, "generation": "7"}
    parts = [compare(part, values, values, values if part in ("map", "policies") else None) for part in PARTS]
    if wrong:
        missing = ("h7 KBhzqL7jnqPMBSv2cQGBu5ZOHPZ8Q4V9Hn2iGtqGDnI= is missing",)
        parts = [_wrong(part, missing) if part.name == "peers" else part for part in parts]
    return Report(name, tuple(parts))


def _wrong(part: Part, differences: tuple[str, ...]) -> Part:
    return replace(part, enforced="0" * 16, differences=differences)


def address(number: int) -> str:
    """Every agent has one of loopback's."""
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def serve(channel: Connection) -> None:
    """All agents in one process: each answers for the address that it was asked by."""
    answers = []
    for wrong in (False, True):
        body = json.dumps(document(report("any", wrong=wrong))).encode()
        answers.append(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        last = int(writer.get_extra_info("sockname")[0].rpartition(".")[2])
        writer.write(answers[last % WRONG_EVERY == 0])
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(one, "0.0.0.0", 0, backlog=1024)
        channel.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def measure(count: int, port: int) -> tuple[float, float, int]:
    """Seconds to ask and to compare, and how many were found to differ."""
    peers = [Peer(f"h{number}", (address(number),)) for number in range(1, count + 1)]
    start = time.perf_counter()
    reports = ask_all(peers, lambda _address: True, port=port)
    middle = time.perf_counter()
    verdicts = judge_all(reports, reference_of(report("h0", wrong=False)))
    end = time.perf_counter()
    unknown = [item.words() for item in verdicts if not item.known]
    assert not unknown, unknown[:3]
    return middle - start, end - middle, sum(item.drifted for item in verdicts)


def controller(count: int) -> float:
    """Seconds for the play's comparison of as many reports."""
    from tests.loading import load

    module: Any = load("plugins/plugin_utils/_drift.py")
    names = [f"h{number}" for number in range(count)]
    said = {
        name: {"report": document(report(name, wrong=place % WRONG_EVERY == 0))}
        for place, name in enumerate(names)
    }
    reference = reference_of(report("h0", wrong=False))
    start = time.perf_counter()
    found = module.compare(names, said, reference, [])
    assert len(found["drifted"]) == len(names) // WRONG_EVERY
    return time.perf_counter() - start


def run(say: Callable[[str], None], sizes: tuple[int, ...] = SIZES, passes: int = 5) -> Section:
    """Each size so many times; the sizes take turns."""
    section = Section(
        "Who drifted",
        "Agents that do not exist, in one process, each behind its own address; a tenth drifted. "
        "Ask: `wardmesh fleet drift`, first connection to last answer. Compare: everybody against "
        "one reference. The play: the controller's comparison of what its tasks brought. "
        f"Medians of {passes} passes, in each of which all sizes run. `make bench PART=drift`",
        ("agents", "ask s", "compare s", "whole s", "an agent ms", "the play's comparison s", "MiB"),
    )
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # where that process ends, we are told
    port = ours.recv()
    found: dict[int, list[tuple[float, float, float]]] = {size: [] for size in sizes}
    try:
        for number in range(passes):
            say(f"pass {number + 1}")
            for size in sizes:
                asked, compared, drifted = measure(size, port)
                assert drifted >= size // WRONG_EVERY
                found[size].append((asked, compared, controller(size)))
    finally:
        process.kill()
    for size in sizes:
        asked, compared, play = (median([row[place] for row in found[size]]) for place in range(3))
        whole = asked + compared
        cells = [f"{asked:.3f}", f"{compared:.3f}", f"{whole:.3f}", f"{1000 * whole / size:.2f}"]
        section.rows.append((f"{size:,}", *cells, f"{play:.3f}", f"{peak_memory():.0f}"))
        if size == sizes[-1]:
            section.judge(f"who drifted of {size:,} agents", whole, LIMIT, unit=" s")
    return section
