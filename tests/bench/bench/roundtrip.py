# SPDX-License-Identifier: Apache-2.0
"""A byte there and back, and a whole connection, past the firewall of one host: ours, others, none.

Client and server share one processor: the time that passes is what both ends and all between them cost.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.firewall import OWN
from bench.report import REPO, Section, median
from bench.rivals import GROWTH, NONE, OURS, PORT, SET, Variant, iptables, nft_rules, peer, walls, wardmesh

sys.path.insert(0, str(REPO))

NOISE = 0.05  # microseconds: below it a ratio says nothing
PLACES = ("TCP request and response", "connect, request, close")
HERE = (
    *(NONE, OURS, wardmesh(GROWTH[-1]), SET),
    *(kind(rules) for kind in (nft_rules, iptables) for rules in GROWTH[1:]),
)
Samples = dict[str, dict[str, list[float]]]  # microseconds by variant and place, a value for each pass


class Stage:
    """A client and a server, each in a namespace of its own, with a veth pair between them."""

    def __init__(self, variant: Variant, wall: Any) -> None:
        from tests.bpf.live import veth_pair
        from tests.bpf.netns import Namespace, ip, set_sysctl

        self.client, self.server = Namespace(), Namespace()
        with self.client.entered():
            veth_pair("c0", "s0", self.server)
            ip(f"addr add {peer(0)}/8 dev c0")
            ip("link set c0 up")
            set_sysctl("ipv4.tcp_tw_reuse", 1)  # a port rests for a minute after its connection
        with self.server.entered():
            ip(f"addr add {OWN[4]}/8 dev s0")
            ip("link set s0 up")
            variant.install("tcp", wall, (socket.if_nametoindex("s0"), "s0", True))
            self._listener = socket.create_server((OWN[4], PORT))
        self._process = os.fork()
        if not self._process:
            _serve(self._listener)

    def echo(self, rounds: int) -> float:
        """Microseconds for a byte there and back on an open connection."""
        with self.client.entered(), socket.create_connection((OWN[4], PORT), 10) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            started = time.perf_counter()
            for _round in range(rounds):
                line.send(b"x")
                line.recv(1)
            return (time.perf_counter() - started) / rounds * 1e6

    def connect(self, rounds: int) -> float:
        """Microseconds to connect, ask, be answered, and close."""
        with self.client.entered():
            started = time.perf_counter()
            for _round in range(rounds):
                with socket.create_connection((OWN[4], PORT), 10) as line:
                    line.send(b"x")
                    line.recv(1)
            return (time.perf_counter() - started) / rounds * 1e6

    def close(self) -> None:
        """The server ends, the namespaces go."""
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        self._listener.close()
        self.client.close()
        self.server.close()


def _serve(listener: socket.socket) -> None:
    """Answer one connection after another, until the process is killed."""
    while True:
        line, _whom = listener.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with line:
            while line.recv(1):
                line.send(b"x")


@contextmanager
def one_processor() -> Iterator[None]:
    """This process and those that it makes run on one of its processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(say: Callable[[str], None], passes: int = 15, rounds: int = 2_000) -> Section:
    """All variants in turn, within each pass."""
    samples: Samples = {one.name: {place: [] for place in PLACES} for one in HERE}
    with walls(HERE) as found, one_processor(), ExitStack() as held:
        stages = {one.name: Stage(one, found.get(one.name)) for one in HERE}
        for stage in stages.values():
            held.callback(stage.close)
            stage.echo(rounds)
        for number in range(passes):
            say(f"pass {number + 1} of {passes}")
            for name, stage in stages.items():
                samples[name][PLACES[0]].append(stage.echo(5 * rounds))
                samples[name][PLACES[1]].append(stage.connect(rounds // 2))
    return _section(samples, passes)


def _section(samples: Samples, passes: int) -> Section:
    section = Section(
        "Past the firewall of one host",
        "Two namespaces with a veth pair between them, no tunnel; the firewall is on the server. One byte "
        "there and back on an open connection; connect, ask, be answered, close. Both ends on one processor: "
        f"microseconds of all that it takes, medians of {passes} passes, and what a pass adds to the same "
        "pass without a firewall. `make bench PART=roundtrip`",
        ("", "round trip µs", "added", "connection µs", "added"),
    )
    added: dict[str, dict[str, float]] = {}
    for name, found in samples.items():
        cells = []
        for place, values in found.items():
            more = median([a - b for a, b in zip(values, samples[NONE.name][place], strict=True)])
            added.setdefault(name, {})[place] = more
            cells += [f"{median(values):.2f}", f"{more:.2f}"]
        section.rows.append((name, *cells))
    for place in PLACES:
        ours, theirs = added[OURS.name][place], added[SET.name][place]
        if theirs > NOISE:
            section.judge(f"{place}: added, to nftables with a set", ours / theirs, 0.7)
        else:
            section.targets.append((f"{place}: added", "nftables' part is within the noise", "", False))
    return section
