# SPDX-License-Identifier: Apache-2.0
"""From a packet on a real host to its line on the terminal; the observer's memory while its ring fills."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from bench.play import Controller
from bench.report import Section
from lab import Host, Lab

KEPT = 131_071  # the most that hubble.eventBufferCapacity takes
STEPS = (0, 10_000, 30_000, 100_000)  # flows in the ring
SAMPLES = 200
CONFIG = {
    "wardmesh_config": {
        "hostFirewall": {"enabled": True},
        "hubble": {"enabled": True, "eventBufferCapacity": KEPT},
    }
}
# Sends a datagram of its own port to the peer and waits for its line: milliseconds for each, as JSON.
LATENCY = """
import json, select, socket, subprocess, sys, time
peer, count = sys.argv[1], int(sys.argv[2])
observe = subprocess.Popen(
    ["wardmesh", "observe", "--follow", "--port", "9999", "-o", "compact"], stdout=subprocess.PIPE, text=True
)
def send(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("", port))
        started = time.monotonic()
        one.sendto(b"x", (peer, 9999))
        return started
while not select.select([observe.stdout], [], [], 0.5)[0]:
    send(20000)  # until somebody listens
observe.stdout.readline()
found = []
for number in range(count):
    time.sleep(0.02 + (number * 7 % 50) / 1000)  # at no fixed moment of the observer's look into the ring
    port = 20001 + number
    started = send(port)
    while f":{port} " not in observe.stdout.readline():
        pass
    found.append((time.monotonic() - started) * 1000)
observe.kill()
print(json.dumps(sorted(found)))
"""
# New flows, one for each port of the peer and of ours, slowly enough that none is lost.
FLOOD = """
import socket, sys, time
peer, count = sys.argv[1], int(sys.argv[2])
sent = 0
while sent < count:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for port in range(10000, 10000 + min(20000, count - sent)):
            one.sendto(b"x", (peer, port))
            sent += 1
            if not sent % 100:
                time.sleep(0.02)
"""


def run(say: Callable[[str], None]) -> Section:
    """Two containers; the first one sends, and is looked at."""
    lab = Lab.up(2, "bench")
    try:
        with Controller(lab) as controller:
            controller.play("site", "-e", json.dumps(CONFIG))
        one, two = lab.hosts
        say(f"{SAMPLES} datagrams, each with its line")
        waits = json.loads(one.run(f"python3 - {two.address} {SAMPLES}", stdin=LATENCY).stdout)
        rows: list[Sequence[str]] = [
            ("from a packet to its line, median", f"{waits[len(waits) // 2]:.0f} ms"),
            ("the slowest of a hundred", f"{waits[-1 - len(waits) // 100]:.0f} ms"),
        ]
        one.run("systemctl restart wardmesh-observer")
        sent = 0
        for step in STEPS:
            say(f"{step:,} flows in the ring")
            one.run(f"python3 - {two.address} {step - sent}", stdin=FLOOD)
            sent = step
            rows.append((f"resident with {_held(one, step):,} flows", f"{_resident(one):.0f} MiB"))
    finally:
        lab.down()
    return Section(
        "From a packet to a line",
        "A container with the whole product: `wardmesh observe --follow` prints what the observer tells, "
        "while another process of that host sends datagrams that are new flows each. The observer looks into "
        "the kernel's ring every 20 ms while few come. Memory is the observer's; its ring keeps "
        f"{KEPT:,} flows at most, twice upstream's. `make bench PART=flows`",
        ("what", "measured"),
        rows,
    )


def _held(host: Host, wanted: int) -> int:
    """Flows in the ring, once there are so many or no more come."""
    end = time.monotonic() + 60
    while True:
        held = int(host.run("wardmesh observe --all -o jsonpb | wc -l").stdout)
        if held >= wanted or time.monotonic() > end:
            return held
        time.sleep(0.5)


def _resident(host: Host) -> float:
    """MiB of the observer's process."""
    pid = host.run("systemctl show -p MainPID --value wardmesh-observer").stdout.strip()
    line = host.run(f"grep VmRSS /proc/{pid}/status").stdout
    return int(line.split()[1]) / 1024
