# SPDX-License-Identifier: Apache-2.0
"""A real agent and a real etcd with thousands of members that do not exist: they come and go."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import churn_kernel as kernel
from bench.report import REPO, Section, median

sys.path.insert(0, str(REPO))

SIZES = (200, 1_000, 5_000)
EVENTS = 4  # of each kind, one after another
TURNS = 300  # changes of one rule
RATE, WINDOW = 4.0, 9.0  # changes a second, for so many seconds
SETTLE, IDLE = 3.0, 5.0  # seconds until the last change is taken in, and without any
GROUPS, RULES = 50, 100  # values of the label app, and rules that select by it
STORE = "10.98.0.2"
CLUSTER, PORT = "c", 2379
START_LIMIT, EVENT_LIMIT = 240.0, 30.0  # seconds
CONVERGED, ONE_PEER, ONE_RULE = 2.0, 1.0, 0.1  # figures to reach: seconds, milliseconds, seconds
ONE = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: one}
spec:
  nodeSelector: {}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a1}}]
    toPorts: [{ports: [{port: "PORT", protocol: TCP}]}]
"""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Agent:
    """The agent in its namespace; its child follows the store."""

    host: Any
    root: Path
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.root / "agent.log"

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPO / "agent")}
        argv = self.host.argv(sys.executable, str(Path(__file__).with_name("churn_agent.py")), str(self.root))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def pids(self) -> dict[str, int]:
        """The agent's and its child's."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        others = [Path(f"/proc/{self.process.pid}/task").glob("*/children")]
        found = {int(word) for path in itertools.chain(*others) for word in path.read_text().split()}
        found |= {int(word) for word in children}
        child = next(
            pid for pid in sorted(found) if b"discovery" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        return {"agent": self.process.pid, "child": child}


def processor(pid: int) -> float:
    """CPU seconds of a process with all its threads."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS


def resident(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def traffic() -> tuple[float, float]:
    """Bytes that etcd got from its clients and sent to them; runs in the namespace of etcd."""
    with urllib.request.urlopen(f"http://{STORE}:{PORT}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[:4] == "etcd"}
    names = ("received", "sent")
    got, sent = (found.get(f"etcd_network_client_grpc_{name}_bytes_total", 0.0) for name in names)
    return got, sent


def prepare(host: Any) -> Agent:
    """Key, configuration, policies, and a map with this host alone."""
    from tests.fleets import rules

    from wardmesh.host.paths import Paths
    from wardmesh.model.fleetmap import canonical, digest_of
    from wardmesh.wireguard.keys import load_or_create

    paths = Paths(host.scratch)
    for folder in ("lib/modules", "usr/src"):  # where the compiler looks for headers
        (paths.root / folder).parent.mkdir(parents=True, exist_ok=True)
        (paths.root / folder).symlink_to(Path("/") / folder)
    key = load_or_create(paths, dry_run=False).public_key
    config = {
        "cluster": {"name": CLUSTER, "id": 7},
        "encryption": {"mode": "prefer", "backend": "userspace"},
        "hostFirewall": {"enabled": True},
        "etcd": {"endpoints": [f"http://{STORE}:{PORT}"], "lease": "60s"},
        "discovery": {"networks": ["10.0.0.0/8"]},
    }
    paths.policies.mkdir(parents=True)
    paths.config.write_text(json.dumps(config))
    (paths.policies / "rules.yaml").write_text(rules(RULES, GROUPS, RULES))
    document = {
        "format": 1,
        "generation": 1,
        "cluster": {"name": CLUSTER, "id": 7},
        "members": [{"name": "self", "key": key, "addresses": ["10.98.0.1"]}],
    }
    paths.fleet.write_bytes(canonical({**document, "digest": digest_of(document)}) + b"\n")
    return Agent(host, paths.root)


@contextlib.contextmanager
def store(host: Any) -> Iterator[None]:
    """etcd in the other namespace."""
    url, peer = f"http://{STORE}:{PORT}", f"http://{STORE}:2380"
    argv = ["etcd", "--name", "e", "--data-dir", str(host.scratch / "etcd"), "--listen-client-urls", url]
    argv += ["--advertise-client-urls", url, "--listen-peer-urls", peer]
    argv += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"e={peer}"]
    host.scratch.mkdir(exist_ok=True)
    with open(host.scratch / "etcd.log", "ab") as log:
        process = host.popen(*argv, stdout=log, stderr=log, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": ""})
    try:
        wait(lambda: host.call(kernel.answers, STORE, PORT), "etcd serves", 30)
        yield
    finally:
        process.kill()
        process.wait()


def wait(holds: Callable[[], Any], what: str, within: float) -> float:
    """Poll; the seconds that it took."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > within:
            raise RuntimeError(f"not within {within} s: {what}")
        time.sleep(0.005)
    return time.monotonic() - start


def added(agent: Agent, name: str, begin: int) -> bool:
    """Has the device this peer? The agent says so right after. begin: where to read the log from."""
    with open(agent.log, "rb") as file:
        file.seek(begin)
        return f"peer {name} added".encode() in file.read()


def events(agent: Agent, writer: Any, count: int) -> dict[str, list[float]]:
    """Seconds from a record in the store to its effect, by kind; one change at a time."""
    found: dict[str, list[float]] = {"join, ipcache": [], "join, peer": [], "relabel": [], "leave": []}
    for number in range(count + 1, count + 1 + EVENTS):
        begin = agent.log.stat().st_size
        writer.call(kernel.put, number, "a1")
        seen = wait(partial(agent.host.call, kernel.identity, number), f"h{number} joins", EVENT_LIMIT)
        found["join, ipcache"].append(seen)
        more = wait(partial(added, agent, f"h{number}", begin), f"h{number} is a peer", EVENT_LIMIT)
        found["join, peer"].append(seen + more)
        before = agent.host.call(kernel.identity, number)
        writer.call(kernel.put, number, "a2")
        changed = lambda n=number, b=before: agent.host.call(kernel.identity, n) not in (b, 0)  # noqa: E731
        found["relabel"].append(wait(changed, f"h{number} has another label", EVENT_LIMIT))
        writer.call(kernel.remove, number)
        gone = lambda n=number: not agent.host.call(kernel.identity, n)  # noqa: E731
        found["leave"].append(wait(gone, f"h{number} leaves", EVENT_LIMIT))
    return found


def rule_changes(agent: Agent) -> list[float]:
    """Seconds from the word to the agent until its maps hold another rule, one after another, sorted."""
    from wardmesh.api import client
    from wardmesh.host.paths import Paths

    paths, found = Paths(agent.root), []
    for port in range(30_000, 30_000 + TURNS):
        (paths.policies / "one.yaml").write_text(ONE.replace("PORT", str(port)))
        begun = time.monotonic()
        client.call(paths.socket, "POST", "/v1/reload", {}, timeout=EVENT_LIMIT)
        found.append(time.monotonic() - begun)
        if not agent.host.call(kernel.admits, port):
            raise RuntimeError(f"the kernel has no rule for port {port}")
    (paths.policies / "one.yaml").unlink()
    client.call(paths.socket, "POST", "/v1/reload", {}, timeout=EVENT_LIMIT)
    return sorted(found)


def over(agent: Agent, writer: Any, seconds: float, rate: float) -> dict[str, float]:
    """A while with so many changes a second: CPU of agent and child, bytes of the store a second."""
    pids = agent.pids()
    before = {name: processor(pid) for name, pid in pids.items()}
    bytes_before, begun = writer.call(traffic), time.monotonic()
    if rate:
        writer.call(kernel.churn, 1, seconds, rate)
    else:
        time.sleep(seconds)
    spent = time.monotonic() - begun
    got, sent = (now - then for now, then in zip(writer.call(traffic), bytes_before, strict=True))
    figures = {name: (processor(pid) - before[name]) / spent for name, pid in pids.items()}
    return {**figures, "got": got / spent, "sent": sent / spent}


def size(agent: Agent, writer: Any, had: int, count: int, say: Callable[[str], None]) -> dict[str, str]:
    """The figures of one size, in words. had: members that the store has already."""
    agent.stop()
    writer.call(kernel.fill, had + 1, count, GROUPS)
    agent.start()
    started = wait(lambda: kernel_has(agent, count), f"{count} members are known", START_LIMIT)
    say(f"{count:,} members after {started:.1f} s")
    found = events(agent, writer, count)
    say(f"events done: {', '.join(f'{kind} {median(times):.2f}' for kind, times in found.items())}")
    rule = rule_changes(agent)
    say(f"one rule: {median(rule):.3f}, the slowest of {TURNS} {rule[-1]:.3f}")
    busy = over(agent, writer, WINDOW, RATE)
    time.sleep(SETTLE)
    still = over(agent, writer, IDLE, 0)
    figures = {"from the agent's start until all are peers and in the maps, s": f"{started:.1f}"}
    figures.update(
        {
            f"{kind}, s: median / slowest": f"{median(times):.2f} / {max(times):.2f}"
            for kind, times in found.items()
        }
    )
    figures["one rule, s: median / p99"] = f"{median(rule):.3f} / {rule[len(rule) * 99 // 100 - 1]:.3f}"
    for when, shares in (("with changes", busy), ("without", still)):
        for name in ("agent", "child"):
            figures[f"CPU of the {name} {when}, % of a core"] = f"{100 * shares[name]:.1f}"
        figures[f"to and from the store {when}, KiB/s"] = (
            f"{shares['got'] / 1024:.1f} / {shares['sent'] / 1024:.1f}"
        )
    for name, pid in agent.pids().items():
        figures[f"resident {name}, MiB"] = f"{resident(pid):.0f}"
    figures["one more peer at the device, ms"] = f"{agent.host.call(kernel.one_peer) * 1000:.2f}"
    return figures


def kernel_has(agent: Agent, count: int) -> bool:
    """Are all there, as peers and in the maps?"""
    if agent.process is None or agent.process.poll() is not None:
        raise RuntimeError("the agent ended")
    time.sleep(0.2)
    if not agent.host.call(kernel.identity, count):
        return False
    return int(agent.host.call(kernel.peers)) == count


def run(say: Callable[[str], None], sizes: tuple[int, ...] = SIZES) -> Section:
    """One agent and one store; the sizes follow each other."""
    from tests.netns.hosts import hosts

    found: dict[int, dict[str, str]] = {}
    with hosts(2) as made:
        first, second = made
        first.run("ip", "route", "add", "default", "dev", "eth0")
        first.run("ip", "route", "add", "blackhole", "10.100.0.0/14")  # nobody answers there
        agent = prepare(first)
        try:
            with store(second):
                second.call(kernel.connect, STORE, PORT, CLUSTER)
                for had, count in itertools.pairwise((0, *sizes)):
                    found[count] = size(agent, second, had, count, say)
        except (RuntimeError, OSError):
            say(agent.log.read_text()[-3000:] if agent.log.exists() else "no log")
            raise
        finally:
            agent.stop()
            first.run("ip", "link", "del", "wardmesh_wg0", check=False)  # with it goes wireguard-go
    return section_of(found)


def section_of(found: dict[int, dict[str, str]]) -> Section:
    """A line for each figure, a column for each size."""
    section = Section(
        "Members that come and go",
        f"A real agent (wireguard-go, firewall with {RULES} rules over {GROUPS} label values) in a "
        "namespace, a real etcd in another one; the other members are records. The programs are pinned but "
        f"for the first start. One change at a time, {EVENTS} of each kind: seconds from the record's write "
        "until the kernel has it, in the guard's map or as a peer; who leaves is waited for one second by "
        "design. One rule: another one in a file of its own, from the word to the agent until its maps hold "
        f"it, {TURNS} times; a fleet's hosts do that side by side; how the file comes to them is not in it. "
        f"With changes: {RATE:g} a second for {WINDOW:g} s. Agent and store share the cores. "
        "`make bench PART=churn`",
        ("figure", *(f"{count:,} members" for count in found)),
    )
    names = next(iter(found.values()))
    section.rows += [(name, *(figures[name] for figures in found.values())) for name in names]
    last = list(found)[-1]
    for kind in ("join, peer", "relabel"):
        value = float(found[last][f"{kind}, s: median / slowest"].split()[-1])
        section.judge(f"{kind} beside {last:,}, the slowest", value, CONVERGED, unit=" s")
    thousand = found.get(1_000)
    if thousand is not None:
        value = float(thousand["one rule, s: median / p99"].split()[-1])
        section.judge("one rule beside 1,000, p99", value, ONE_RULE, unit=" s")
    value = float(found[last]["one more peer at the device, ms"])
    section.judge(f"one more peer beside {last:,}", value, ONE_PEER, unit=" ms")
    return section
