# SPDX-License-Identifier: Apache-2.0
"""Real agents on the hosts of hosts.py, and the controller's part of a rotation, with its own code."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.loading import REPO, load
from tests.netns.hosts import Host, hosts
from tests.waiting import wait_for

from wardmesh.api import client
from wardmesh.cli.rotate import standing
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

compiler = load("plugins/plugin_utils/_compile.py")
rotation = load("plugins/plugin_utils/_rotation.py")
CONFIG = "hostFirewall: {enabled: true}\nencryption: {mode: strict, backend: userspace}\n"
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: members}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [cluster]
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPO / 'agent'}:{REPO}"}
START_SECONDS = 200.0  # two compiler runs for each host


@dataclass
class Member:
    """A host with its agent."""

    host: Host
    number: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def address(self) -> str:
        return f"10.98.0.{self.number}"

    @property
    def address6(self) -> str:
        return f"fd98::{self.number}"

    @property
    def root(self) -> Path:
        return self.host.scratch

    def wardmesh(self, *words: str) -> dict[str, Any]:
        """A verb's JSON; AssertionError with its error."""
        argv = self.host.argv(sys.executable, "-m", "wardmesh", "--root", str(self.root), *words, "--json")
        done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
        assert done.returncode == 0, f"{self.name}: {words}: {done.stdout}{done.stderr}"
        return dict(json.loads(done.stdout))

    def start(self) -> None:
        """Start the agent."""
        with open(self.root / "agent.log", "ab") as log:
            argv = self.host.argv(sys.executable, str(REPO / "tests/netns/daemon.py"), str(self.root))
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=ENVIRONMENT)

    def kill(self) -> None:
        """End the agent without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)

    def report(self) -> dict[str, Any]:
        """What `wardmesh encryption rotate` prints, without a process for each look."""
        return standing(Paths(self.root))

    def status(self) -> dict[str, Any]:
        """What `wardmesh status` prints, in the same way; WardmeshError while no agent runs."""
        return client.call(Paths(self.root).socket, "GET", "/v1/status")

    def has(self, key: str) -> bool:
        """Does the kernel know this public key, as own or as a peer?"""
        return key in self.host.run("wg", "show", "all", "dump")

    def close(self) -> None:
        self.kill()
        for note in (self.root / "wireguard-go").glob("*"):
            with suppress(ProcessLookupError):
                os.kill(int(note.read_text()), signal.SIGKILL)


@dataclass
class Controller:
    """Registry and map, and the steps of playbooks/rotate_keys.yml."""

    members: list[Member]
    folder: Path
    registry: dict[str, Any] = field(default_factory=compiler.empty_registry)

    @property
    def map(self) -> Path:
        return self.folder / "fleet.json"

    def compile(self) -> None:
        self.registry, data = compiler.compile_map(self.registry, "default", 1)
        self.map.write_bytes(data)

    def apply(self, members: list[Member] | None = None) -> None:
        for member in self.members if members is None else members:
            member.wardmesh("fleet", "apply", str(self.map))

    def stage(self, names: list[str], also: Callable[[], None] = lambda: None) -> None:
        """Staged keys of these into the map, the map to all; `also` happens after the first host has it."""
        chosen = [member for member in self.members if member.name in names]
        keys = {
            m.name: m.wardmesh("encryption", "rotate", "--phase", "stage")["next_public_key"] for m in chosen
        }
        self.registry = rotation.stage(self.registry, keys)
        self.compile()
        self.apply(self.members[:1])
        also()
        self.apply(self.members[1:])
        self.wait(
            lambda report: report["phase"] == "staged" and not report["waiting"], "second tunnels are up"
        )

    def activate(self, members: list[Member] | None = None) -> None:
        for member in self.members if members is None else members:
            member.wardmesh("encryption", "rotate", "--phase", "activate")
            wait_for(lambda one=member: _sends(one.report()), f"{member.name} sends by the second tunnel", 30)

    def retire(self, first: int = 99) -> None:
        """Old keys out of the map, the map to the first so many; without a number to all, and to the end."""
        reports = {member.name: member.report() for member in self.members}
        digest = hashlib.sha256(self.map.read_bytes()).hexdigest()
        self.registry = rotation.retire(self.registry, reports, digest)
        self.compile()
        self.apply(self.members[:first])
        if first >= len(self.members):
            self.end()

    def end(self) -> None:
        self.wait(lambda report: report["phase"] == "none", "the second tunnels are gone", 90)

    def wait(self, good: Callable[[dict[str, Any]], bool], what: str, seconds: float = 40) -> None:
        def all_good() -> bool:
            time.sleep(0.3)  # the agents have better things to do than to answer
            return all(good(member.report()) for member in self.members)

        wait_for(all_good, what, seconds)

    def keys(self) -> dict[str, str]:
        return {name: entry["key"] for name, entry in self.registry["members"].items()}


def _sends(report: dict[str, Any]) -> bool:
    return bool(report["pairs"]) and set(report["pairs"]) == set(report["sending"])


@contextmanager
def strict_fleet(count: int, folder: Path) -> Iterator[Controller]:
    """So many members, every tunnel up, every member sealed for every other."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends the tests ends what they started
    with hosts(count) as made:
        members = [Member(host, number) for number, host in enumerate(made, 1)]
        controller = Controller(members, folder)
        try:
            for member in members:
                _install(member, controller.registry)
            controller.compile()
            for member in members:
                (member.root / "etc/wardmesh/fleet.json").write_bytes(controller.map.read_bytes())
                member.start()
            for member in members:
                wait_for(
                    lambda one=member: _up(one, count - 1), f"the tunnels of {member.name}", START_SECONDS
                )
            for member in members:
                answer = member.wardmesh("encryption", "mode", "strict", "--all")
                assert len(answer["sealed"]) == count - 1
            yield controller
        except BaseException:
            for member in members:
                print(f"--- {member.name}\n{(member.root / 'agent.log').read_text()[-6000:]}")
            raise
        finally:
            for member in members:
                member.close()


def _install(member: Member, registry: dict[str, Any]) -> None:
    policies = member.root / "etc/wardmesh/policies"
    policies.mkdir(parents=True)
    for folder in ("usr", "lib"):  # the machine's own: kernel headers are looked for there
        (member.root / folder).symlink_to(f"/{folder}")
    (member.root / "etc/wardmesh/config.yaml").write_text(CONFIG)
    (policies / "members.yaml").write_text(POLICY)
    facts = member.wardmesh("node", "init")
    registry["members"][member.name] = {
        "key": facts["public_key"],
        "key_generation": 1,
        "addresses": [member.address, member.address6],
    }


def _up(member: Member, others: int) -> bool:
    assert member.process is not None and member.process.poll() is None, f"the agent of {member.name} ended"
    try:
        status = member.status()
    except WardmeshError:
        return False
    return sum(peer["reachable"] for peer in status["peers"]) == others


# --- traffic --------------------------------------------------------------------------------------------

_ECHO = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], 8001), family=socket.AF_INET6)
print("ready", flush=True)
def answer(link):
    with link:
        while data := link.recv(65536): link.sendall(data)
while True: threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""
# Counts lines that come back in order, until stdin ends; any reset or gap is an exception.
_STREAM = """
import select, socket, sys, time
link = socket.create_connection((sys.argv[1], 8001), timeout=60)
reader, count = link.makefile("rb"), 0
while not select.select([sys.stdin], [], [], 0)[0]:
    link.sendall(b"secret-text %d\\n" % count)
    assert reader.readline() == b"secret-text %d\\n" % count
    count += 1
    time.sleep(0.002)
print(count)
"""
# Echo requests a millisecond apart; after RECENT unanswered ones of the last PATIENCE seconds it waits, so
# that a busy machine makes them fewer and lets no queue overflow, and a way that is cut is asked for again.
# What is answered in GIVE_UP seconds is late, not lost. 33 is SO_RCVBUFFORCE. Ends when stdin does; prints as
# JSON: sent, the longest wait for an answer in ms, the times (Unix) at which those were sent that got none.
_FLOOD = """
import collections, json, select, socket, struct, sys, time
RECENT, PATIENCE, GIVE_UP = 8, 0.5, 10.0
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
sock.connect((sys.argv[1], 0)); sock.setblocking(False)
waiting, lost, sent, longest, due, ended = {}, [], 0, 0.0, 0.0, None
while ended is None or (waiting and time.time() - ended < GIVE_UP):
    now = time.time()
    recent = sum(now - when < PATIENCE for when in list(waiting.values())[-RECENT:])
    free = ended is None and recent < RECENT
    if free and now >= due:
        sent += 1; due = now + 0.001
        try: sock.send(struct.pack(">BBHHHQ", 8, 0, 0, 0, sent & 0xFFFF, sent)); waiting[sent] = now
        except OSError: lost.append(now)
    if len(waiting) > 30000: lost.append(waiting.pop(next(iter(waiting))))
    pause = max(0.0, due - time.time()) if free else 0.02
    readable = select.select([sock, *([] if ended else [sys.stdin])], [], [], pause)[0]
    if sys.stdin in readable: ended = time.time()
    while sock in readable:
        try: answer = sock.recv(100)
        except OSError: break
        if answer[0] == 0:
            when = waiting.pop(struct.unpack(">Q", answer[8:16])[0], None)
            longest = max(longest, time.time() - when) if when else longest
print(json.dumps([sent, int(longest * 1000), sorted([*lost, *waiting.values()])]))
"""


@dataclass
class Result:
    """Probes by pair of names: floods (sent, longest wait in ms, when the lost ones were sent), lines of
    streams; packets outside the tunnels."""

    floods: dict[tuple[str, str], tuple[int, int, list[float]]] = field(default_factory=dict)
    streams: dict[tuple[str, str], int] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)

    def lost(self) -> dict[tuple[str, str], str]:
        """How many of a pair, from when to when (UTC, as in the agents' logs)."""
        return {pair: _span(times) for pair, (_sent, _wait, times) in self.floods.items() if times}


def _span(times: list[float]) -> str:
    first, last = (
        f"{time.strftime('%H:%M:%S', time.gmtime(t))}.{int(t % 1 * 1000):03}" for t in (times[0], times[-1])
    )
    return f"{len(times)} from {first} to {last}"


@contextmanager
def traffic(members: list[Member], folder: Path, plain: str) -> Iterator[Result]:
    """Floods and streams between every pair, both ways, and captures of what `plain` matches, meanwhile."""
    result = Result()
    servers = [m.host.popen(sys.executable, "-c", _ECHO, m.address6, stdout=subprocess.PIPE) for m in members]
    captures = [_capture(member, folder / f"{member.name}.pcap", plain) for member in members]
    probes: list[tuple[str, tuple[str, str], subprocess.Popen[bytes]]] = []
    try:
        for server in servers:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        for member in members:
            member.host.sysctl("net/ipv4/ping_group_range", "'0 2147483647'")
            for other in members:
                if other is not member:
                    kinds = (("flood", _FLOOD, other.address), ("stream", _STREAM, other.address6))
                    for kind, code, address in kinds:
                        process = member.host.popen(
                            *(sys.executable, "-c", code, address),
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                        )
                        probes.append((kind, (member.name, other.name), process))
        time.sleep(1)
        yield result
        for kind, pair, process in probes:
            _collect(result, kind, pair, process)
    finally:
        for process in [*(probe for _kind, _pair, probe in probes), *servers, *captures]:
            process.terminate() if process in captures else process.kill()
            process.communicate(timeout=30)
    for member in members:
        argv = ["tcpdump", "-n", "-r", str(folder / f"{member.name}.pcap")]
        result.plain += subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def _collect(result: Result, kind: str, pair: tuple[str, str], process: subprocess.Popen[bytes]) -> None:
    out, error = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0, f"{kind} {pair}: {error.decode()}"
    if kind == "flood":
        sent, longest, times = json.loads(out)
        result.floods[pair] = (sent, longest, times)
    else:
        result.streams[pair] = int(out)


def _capture(member: Member, file: Path, expression: str) -> subprocess.Popen[bytes]:
    argv = ("tcpdump", "--immediate-mode", "-U", "-n", "-Z", "root", "-s", "120", "-i", "eth0")
    process = member.host.popen(
        *argv, "-w", str(file), expression, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    for line in process.stderr or ():
        if b"listening on" in line:
            break
    return process
