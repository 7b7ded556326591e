# SPDX-License-Identifier: Apache-2.0
"""What one observer takes in: the kernel's events into its ring, as flows, as messages; and its memory."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from bench.firewall import FEW, FLOWS_MAX, Runs, Size, loaded
from bench.report import REPO, Section, median

sys.path.insert(0, str(REPO))

KEPT = 131_071  # the most that hubble.eventBufferCapacity takes
SHARE = 0.05  # of a core
LOOK = 0.02  # seconds between two looks of an observer
RATES = (10_000, 100_000, 300_000, 1_000_000)  # events a second
TO_REACH = 300_000
SECONDS = 4.0  # of each rate
MEMBERS = 1_000
TABLE = 262_144  # flows of which aggregates are made
PYTHON = "/usr/bin/python3"  # with the distribution's libraries, as on a host
HUBBLE = "hubble: {enabled: true, eventBufferCapacity: %d}\nprometheus: {enabled: true}\n"
METHOD = (
    "Events of new flows and of their first answers, from the real programs and the kernel's ring. First a "
    "real observer with gRPC and metrics, in a process of its own with the distribution's Python, while "
    f"events come at a pace for {SECONDS:.0f} s: kept counts events that are copied into its own ring of "
    f"{KEPT:,} and counted for the metrics, as bytes, not yet named; CPU is that of all its threads, medians "
    "of 3. A pace that the sender does not reach beside its neighbours shows in what was kept. Resident "
    "memory is VmRSS. Then, by a "
    f"thread, what comes with the asking: events that are decoded and named with a fleet of {MEMBERS:,}, "
    f"{FEW:,} at a time, and as messages of Hubble's API. Aggregates: how many flows of a full table have "
    "time left, once a second (what the metrics ask). What an event costs the packet: see the firewall. "
    "`make bench PART=observe`"
)
# In a mount namespace of its own, in which its pins lie where an agent's do.
START = 'mount --bind "$1" /sys/fs/bpf && exec "$2" -m wardmesh --root "$3" observer'


class Feed:
    """New flows of one host and their first answers, from the real program: two events for each."""

    def __init__(self, runs: Runs, size: Size) -> None:
        self._runs, self._opened = runs, 0
        friend = size.friend(4)
        self._steps = (
            (runs.drivers[4], runs.programs["ingress"], runs.frame(4, "ingress", friend, 2)),
            (runs.answerers[4], runs.programs["egress"], runs.frame(4, "egress", friend, 0x12)),
        )

    def send(self, count: int) -> int:
        """So many events, or one less; how many. Each flow has another port, until none is new."""
        flows = count // 2
        if self._opened + flows > FEW * 4:
            self._runs.forget()
            self._opened = 0
        for driver, program, frame in self._steps if flows else ():
            self._runs.time(driver.point(program), frame, flows)
        self._opened += flows
        return 2 * flows

    def pace(self, rate: int, seconds: float) -> int:
        """So many a second for so long; how many there were."""
        start, sent = time.monotonic(), 0
        while True:
            spent = time.monotonic() - start
            if spent >= seconds:
                return sent
            sent += self.send(min(max(int(rate * spent) - sent, 0), FEW))
            time.sleep(LOOK / 4)


class Process:
    """A real observer in a process of its own, with the distribution's Python and its libraries."""

    def __init__(self, pins: Path, root: Path) -> None:
        self.socket = root / "run/wardmesh/hubble.sock"
        self._process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", START, "sh", str(pins), PYTHON, str(root)],
            env={**os.environ, "PYTHONPATH": str(REPO / "agent"), "MALLOC_ARENA_MAX": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._tasks = Path(f"/proc/{self._process.pid}/task")
        while not self.socket.exists():
            if self._process.poll() is not None:
                raise RuntimeError((self._process.communicate()[1] or "").strip())
            time.sleep(0.05)
        time.sleep(3)

    def cpu(self) -> float:
        """Seconds that it has had of a core, all of its threads."""
        found = 0
        for task in self._tasks.iterdir():
            with contextlib.suppress(OSError):
                found += int((task / "schedstat").read_text().split()[0])
        return found / 1e9

    def resident(self) -> float:
        """MiB; what is shared with others is counted, too."""
        for line in (self._tasks.parent / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def seen(self) -> int:
        """Flows that it has taken in."""
        return int(self._ask("ServerStatus", "observer.ServerStatusRequest", "observer.ServerStatusResponse"))

    def _ask(self, method: str, asked: str, answered: str) -> int:
        import grpc

        from wardmesh.observe.proto import message

        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            call = channel.unary_unary(
                f"/observer.Observer/{method}",
                request_serializer=lambda sent: sent.SerializeToString(),
                response_deserializer=message(answered).FromString,
            )
            return int(call(message(asked)(), wait_for_ready=True, timeout=30).seen_flows)

    def read_all(self) -> tuple[int, float]:
        """A client's question for every flow: how many it got, and seconds."""
        import grpc

        from wardmesh.observe.getflows import ALL
        from wardmesh.observe.proto import message

        started = time.monotonic()
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            call = channel.unary_stream(
                "/observer.Observer/GetFlows", request_serializer=lambda sent: sent.SerializeToString()
            )
            count = sum(1 for _answer in call(message("observer.GetFlowsRequest")(number=ALL)))
        return count, time.monotonic() - started

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate(timeout=30)


def _root(folder: Path) -> Path:
    """A host's files: the configuration, and a fleet of a thousand."""
    from tests.fleets import numbered_bytes

    etc = folder / "etc/wardmesh"
    etc.mkdir(parents=True)
    sizes = f"bpf: {{membersMax: 131072, policyRowsMax: 4096, flowsMax: {FLOWS_MAX}}}\n"
    (etc / "config.yaml").write_text(sizes + HUBBLE % KEPT)
    (etc / "fleet.json").write_bytes(numbered_bytes(MEMBERS, 200))
    return folder


@contextlib.contextmanager
def _process(wall: Any) -> Iterator[Process]:
    with tempfile.TemporaryDirectory() as name:
        process = Process(wall.folder.parents[2], _root(Path(name)))
        try:
            yield process
        finally:
            process.close()


def run(say: Callable[[str], None], passes: int = 5) -> Section:
    """Events come from new flows through the real program and the real ring."""
    size = Size(1_000, MEMBERS)
    section = Section("The observer", METHOD, ("what", "a second", "CPU, % of a core", "lost"))
    with loaded(size) as wall:
        runs = Runs(wall, size)
        try:
            with _process(wall) as process:
                _paces(say, section, Feed(runs, size), process)
            with _process(wall) as process:
                _memory(say, section, Feed(runs, size), process)
            section.rows += _read(say, runs, size, passes)
        finally:
            runs.close()
    _aggregates(say, section, passes)
    return section


def _paces(say: Callable[[str], None], section: Section, feed: Feed, process: Process) -> None:
    for rate in RATES:
        say(f"{rate:,} events a second")
        found = [_pace(rate, feed, process) for _ in range(3)]
        kept, share, lost = sorted(found, key=lambda one: one[1] / one[0])[1]
        section.rows.append(
            (f"kept while {rate:,} come", f"{kept:,.0f}", f"{100 * share:.1f}", f"{100 * lost:.1f} %")
        )
        if rate == TO_REACH:
            possible = kept / share * SHARE
            section.judge("events kept a second at 5 % of a core", possible, TO_REACH, at_most=False)


def _pace(rate: int, feed: Feed, process: Process) -> tuple[float, float, float]:
    """Events kept a second, the share of a core that this took, and the share of events that were lost."""
    seen, cpu, started = process.seen(), process.cpu(), time.monotonic()
    sent = feed.pace(rate, SECONDS)
    seconds, share = time.monotonic() - started, process.cpu() - cpu
    time.sleep(0.3)  # what waits in the ring is read
    kept = process.seen() - seen
    return kept / seconds, share / seconds, 1 - kept / sent


def _memory(say: Callable[[str], None], section: Section, feed: Feed, process: Process) -> None:
    say("memory")
    fresh = process.resident()
    section.rows.append(("resident, fresh, MiB", f"{fresh:.0f}", "", ""))
    section.judge("resident, fresh", fresh, 60, unit=" MiB")
    feed.pace(50_000, 2.0)
    time.sleep(1)
    section.rows.append(("resident with 100,000 flows, MiB", f"{process.resident():.0f}", "", ""))
    count, seconds = process.read_all()
    time.sleep(1)
    section.rows.append(
        (f"resident after a client has read all {count:,}, MiB", f"{process.resident():.0f}", "", "")
    )
    section.rows.append(("flows that this client got", f"{count / seconds:,.0f}", "", ""))


def _read(say: Callable[[str], None], runs: Runs, size: Size, passes: int) -> Iterator[Sequence[str]]:
    """What comes with the asking, by the thread."""
    from tests.fleets import numbered

    from wardmesh.daemon.flow_events import Sight
    from wardmesh.daemon.flow_looks import Look
    from wardmesh.datapath import fw_contract as fw
    from wardmesh.datapath.event_ring import EventRing, watch
    from wardmesh.observe.getflows import Encoder
    from wardmesh.observe.names import Namer, Names
    from wardmesh.observe.stretch import Seen

    naming, encoding = [], []
    events = EventRing(runs._map("events"), fw.EVENTS_BYTES)
    watch(runs._map("watch"), told=True)
    namer, encoder, feed = (
        Namer(Names(numbered(MEMBERS, 200), "h1")),
        Encoder(lambda: "c/h1"),
        Feed(runs, size),
    )
    sight = Sight("h1", 300, 0, {})
    for number in range(passes):
        say(f"pass {number + 1} of {passes}: {FEW:,} events")
        feed.send(FEW)
        look = Look(events.take(FEW), sight, {})
        seen = Seen(look, namer.names, namer.take(len(look)), namer.uuid)
        started = time.thread_time()
        flows = [flow for first in range(0, len(look), 256) for flow in seen.entries(first, first + 256)]
        naming.append(len(flows) / (time.thread_time() - started))
        started = time.thread_time()
        for flow in flows[:4_000]:
            encoder.message(flow, None).SerializeToString()
        encoding.append(4_000 / (time.thread_time() - started))
    watch(runs._map("watch"), told=False)
    events.close()
    yield "decoded and named", f"{median(naming):,.0f}", "100", ""
    yield "as messages, for each client", f"{median(encoding):,.0f}", "100", ""


def _aggregates(say: Callable[[str], None], section: Section, passes: int) -> None:
    from wardmesh.datapath.flow_table import FlowTable

    now = 100_000  # ticks
    say(f"aggregates of {TABLE:,} flows")
    with tempfile.TemporaryFile() as file:
        _write_table(file, now)
        spent = []
        with FlowTable(file.fileno(), 4, TABLE) as table:
            for _pass in range(passes):
                time.sleep(1)
                started = time.thread_time()
                counted = table.live(now)
                spent.append(time.thread_time() - started)
                if counted != TABLE:
                    raise RuntimeError(f"{counted} of {TABLE}")
    share = 100 * median(spent)
    section.rows.append((f"aggregates of {TABLE:,} flows", "1", f"{share:.2f}", ""))
    section.judge("aggregates once a second", share, 1, unit=" % of a core")


def _write_table(file: BinaryIO, now: int) -> None:
    """A full table, whose flows end in up to 300 ticks."""
    from wardmesh.datapath import fw_contract as fw

    chance, key = random.Random(1), b"\1" * fw.FLOW4_KEY.size
    for _slot in range(TABLE):
        until = now + chance.randrange(300)
        file.write(key + fw.FLOW.pack(1, 1, 1, 1, 1, 1, 1, 1, 300, 1, until, fw.FLOW_REPLIED))
    file.flush()
