# SPDX-License-Identifier: Apache-2.0
"""Hosts for the tests: network and mount namespaces on a bridge, with the room's real modules inside.

A host is a process of its own that runs what it is told and answers; it ends with its parent. Its mount
namespace has its own /var/run/wireguard (wireguard-go names its socket after the interface) and /proc/sys.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_PR_SET_PDEATHSIG = 1
SOCKETS = "/var/run/wireguard"
Result = TypeVar("Result")
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


@dataclass
class Host:
    """A namespace with a process in it. Functions to run must be importable or closures free of state."""

    name: str
    pid: int
    channel: socket.socket
    scratch: Path
    spawned: list[int] = field(default_factory=list)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run function in the host's process, which keeps its state; its result, or its exception."""
        _send(self.channel, (function, arguments))
        good, value = _receive(self.channel)
        if not good:
            raise value
        return value  # type: ignore[no-any-return]

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program in the host; its output."""
        done = subprocess.run(self.argv(*argv), capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if not check else "")

    def succeeds(self, *argv: str) -> bool:
        """Does the program end with status 0?"""
        return subprocess.run(self.argv(*argv), capture_output=True, timeout=60, check=False).returncode == 0

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a program in the host; the caller ends it."""
        return subprocess.Popen(self.argv(*argv), **options)

    def argv(self, *argv: str) -> list[str]:
        """The command that runs argv in the host."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", *argv]

    def sysctl(self, name: str, value: str) -> None:
        """Set a value below /proc/sys."""
        self.run("sh", "-c", f"echo {value} > /proc/sys/{name}")

    def close(self) -> None:
        """End the process and all that it started: it is the first process of its own group."""
        self.channel.close()
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _send(channel: socket.socket, thing: Any) -> None:
    data = pickle.dumps(thing)
    channel.sendall(struct.pack("=I", len(data)) + data)


def _receive(channel: socket.socket) -> Any:
    size = struct.unpack("=I", _exactly(channel, 4))[0]
    return pickle.loads(_exactly(channel, size))


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _serve(channel: socket.socket) -> None:
    """The host's process: run what comes until the channel ends."""
    while True:
        try:
            function, arguments = _receive(channel)
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = (True, function(*arguments))
        except Exception as error:
            error.args = (*error.args, traceback.format_exc())
            answer = (False, error)
        try:
            _send(channel, answer)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            _send(channel, (False, RuntimeError(f"cannot pickle the answer: {error}")))


def spawn(name: str, scratch: Path) -> Host:
    """A new host with nothing but a loopback."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            os.setpgid(0, 0)
            _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _call("unshare", CLONE_NEWNS | CLONE_NEWNET)
            _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
            os.makedirs(SOCKETS, exist_ok=True)
            _call("mount", b"tmpfs", SOCKETS.encode(), b"tmpfs", 0, None)
            _call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            _send(theirs, "ready")
            _serve(theirs)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    if _receive(ours) != "ready":
        raise RuntimeError(name)
    return Host(name, pid, ours, scratch)


@contextmanager
def spawned(*names: str) -> Iterator[list[Host]]:
    """Hosts with nothing but a loopback; join them with cable."""
    scratch = Path(tempfile.mkdtemp(prefix="wardmesh-netns-"))
    made: list[Host] = []
    try:
        made += [spawn(name, scratch / name) for name in names]
        yield made
    finally:
        for host in made:
            host.close()
        shutil.rmtree(scratch, ignore_errors=True)


def cable(one: Host, device: str, address: str, other: Host, its_device: str, its_address: str) -> None:
    """A link between two hosts, with an address at each end; "" is none."""
    one.run("ip", "link", "add", device, "type", "veth", "peer", "name", its_device, "netns", str(other.pid))
    for host, name, text in ((one, device, address), (other, its_device, its_address)):
        host.run("ip", "link", "set", name, "up")
        if text:
            host.run("ip", "address", "add", text, "dev", name)


@contextmanager
def hosts(count: int, *, mtus: Sequence[int] = ()) -> Iterator[list[Host]]:
    """count hosts with eth0 on one bridge: 10.98.0.N and fd98::N, default routes nowhere."""
    scratch = Path(tempfile.mkdtemp(prefix="wardmesh-netns-"))
    made: list[Host] = []
    try:
        switch = spawn("switch", scratch)
        made.append(switch)
        switch.run("ip", "link", "add", "br0", "type", "bridge")
        switch.run("ip", "link", "set", "br0", "up")
        for number in range(1, count + 1):
            host = spawn(f"node{number}", scratch / f"node{number}")
            made.append(host)
            _wire(switch, host, number, mtus[number - 1] if mtus else 1500)
        yield made[1:]
    finally:
        for host in made:
            host.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _wire(switch: Host, host: Host, number: int, mtu: int) -> None:
    switch.run(
        "ip", "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", str(host.pid)
    )
    switch.run("ip", "link", "set", f"port{number}", "master", "br0", "up", "mtu", "9000")
    host.run("ip", "link", "set", "eth0", "up", "mtu", str(mtu))
    host.run("ip", "address", "add", f"10.98.0.{number}/24", "dev", "eth0")
    host.run("ip", "address", "add", f"fd98::{number}/64", "dev", "eth0", "nodad")
