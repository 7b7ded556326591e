# SPDX-License-Identifier: Apache-2.0
"""One TCP stream, and one byte there and back, between two lab hosts; CPU of both from their cgroups."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from lab import Host

SERVER = """
import socket, threading
def serve(link):
    kind = link.recv(1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if kind == b"s":
        room = bytearray(1 << 20)
        while link.recv_into(room): pass
    else:
        while link.recv(1): link.sendall(b"x")
listener = socket.create_server(("", 5201), reuse_port=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
STREAM = """
import json, socket, sys, time
link = socket.create_connection((sys.argv[1], 5201)); link.sendall(b"s")
data, sent, start = bytes(1 << 18), 0, time.monotonic()
while time.monotonic() - start < float(sys.argv[2]):
    link.sendall(data); sent += len(data)
link.shutdown(socket.SHUT_WR); link.recv(1)
print(json.dumps({"bytes": sent, "seconds": time.monotonic() - start}))
"""
ECHO = """
import json, socket, sys, time
link = socket.create_connection((sys.argv[1], 5201))
link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
link.sendall(b"e"); times = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter_ns(); link.sendall(b"x"); link.recv(1)
    times.append(time.perf_counter_ns() - start)
times.sort()
print(json.dumps({"median": times[len(times) // 2] / 1000}))
"""


@dataclass(frozen=True)
class Stream:
    """megabits: per second; cpu: seconds of both hosts for a gigabyte."""

    megabits: float
    cpu: float


def prepare(hosts: list[Host]) -> None:
    """The programs on every host, the server running."""
    for host in hosts:
        for name, text in (("server", SERVER), ("stream", STREAM), ("echo", ECHO)):
            host.run(f"cat > /run/{name}.py", stdin=text)
        host.run(
            "systemctl is-active -q benchserver || systemd-run -q --unit=benchserver python3 /run/server.py"
        )
    time.sleep(0.5)


def cpu_seconds(host: Host) -> float:
    """CPU that everything on the host used since it started."""
    line = host.run("head -1 /sys/fs/cgroup/cpu.stat").stdout
    return int(line.split()[1]) / 1e6


def stream(source: Host, target: Host, address: str, seconds: float) -> Stream:
    """Send for so many seconds."""
    before = cpu_seconds(source) + cpu_seconds(target)
    done = json.loads(source.run(f"python3 /run/stream.py {address} {seconds}", timeout=60 + seconds).stdout)
    cpu = cpu_seconds(source) + cpu_seconds(target) - before
    return Stream(done["bytes"] * 8e-6 / done["seconds"], cpu / (done["bytes"] / 1e9))


def echo(source: Host, address: str, rounds: int) -> float:
    """Microseconds for a byte there and back, the median."""
    return float(json.loads(source.run(f"python3 /run/echo.py {address} {rounds}").stdout)["median"])
