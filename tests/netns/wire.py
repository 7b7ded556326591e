# SPDX-License-Identifier: Apache-2.0
"""What crosses the wire, and traffic to cross it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.netns.hosts import Host
from tests.waiting import wait_for

# What is not the tunnel's, nor address resolution between neighbours.
PLAIN = (
    "not arp and not (udp port 51871) and not (ip multicast or ip6 multicast) "
    "and not (icmp6 and ip6[40] >= 133 and ip6[40] <= 137)"
)
_SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 8000), family=family)
print("ready", flush=True)
while True:
    link, peer = listener.accept()
    with link:
        total = 0
        while part := link.recv(65536):
            total += len(part)
        link.sendall(f"{peer[0]} {total}".encode())
"""
_CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 8000), timeout=20) as link:
    link.sendall(b"secret-text " * int(sys.argv[2]))
    link.shutdown(socket.SHUT_WR)
    print(link.recv(100).decode())
"""


@contextmanager
def capture(host: Host, device: str, file: Path) -> Iterator[None]:
    """Record what crosses the device while the block runs."""
    argv = [
        "tcpdump",
        "--immediate-mode",
        "-U",
        "-n",
        "-Z",
        "root",
        "-s",
        "200",
        "-i",
        device,
        "-w",
        str(file),
    ]
    process = host.popen(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for line in process.stderr or ():
            if b"listening on" in line:
                break
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def packets(file: Path, expression: str) -> list[str]:
    """The packets of a capture that match, a line each."""
    argv = ["tcpdump", "-n", "-r", str(file), expression]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


@contextmanager
def server(host: Host, address: str) -> Iterator[None]:
    """A TCP server that answers with the client's address and how much it got."""
    process = host.popen(sys.executable, "-c", _SERVER, address, stdout=subprocess.PIPE)
    try:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise AssertionError(f"no server on {address}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def send(host: Host, address: str, words: int = 1000) -> str:
    """Send text to the server at address; its answer."""
    return host.run(sys.executable, "-c", _CLIENT, address, str(words)).strip()


def ping(host: Host, address: str, *options: str) -> bool:
    """Does the address answer?"""
    return host.succeeds("ping", "-c", "1", "-W", "2", *options, address)


def route_device(host: Host, address: str) -> str:
    """The device by which the host would send to the address."""
    words = host.run("ip", "route", "get", address).split()
    return words[words.index("dev") + 1]


def wait_for_ping(host: Host, address: str) -> None:
    """Until the address answers."""
    wait_for(lambda: ping(host, address), f"{address} answers {host.name}")
