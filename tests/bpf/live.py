# SPDX-License-Identifier: Apache-2.0
"""A guarded host, a member beside it and a host beyond, in three network namespaces with real sockets.

member (10.0.0.2, fd00::2) --- a0 [host 10.0.0.1, fd00::1] c0 --- beyond (198.51.100.5)
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bpf.harness import SELF4, SELF6, STRICT4, STRICT6
from tests.bpf.netns import Namespace, ip, set_sysctl
from tests.waiting import eventually

from wardmesh.datapath.attachment import Device

BEYOND4 = "198.51.100.5"
_ETH_P_ALL = 3
_SO_MARK = 36
_TIMEOUT = 5.0


@dataclass
class Neighbourhood:
    """The three namespaces and the guarded device."""

    host: Namespace
    member: Namespace
    beyond: Namespace
    device: Device
    sockets: list[socket.socket] = field(default_factory=list)

    def udp(self, where: Namespace, address: str, port: int = 0, mark: int = 0) -> socket.socket:
        """A bound UDP socket in a namespace."""
        with where.entered():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM)
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            sock.bind((address, port))
        self.sockets.append(sock)
        return sock

    def capture(self, where: Namespace, device: str) -> Capture:
        """Record what a device receives."""
        with where.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            sock.bind((device, _ETH_P_ALL))
        self.sockets.append(sock)
        return Capture(sock)

    def close(self) -> None:
        """Close sockets and let the namespaces go."""
        for sock in self.sockets:
            sock.close()
        for namespace in (self.host, self.member, self.beyond):
            namespace.close()


class Capture:
    """Frames that came in from the wire (not those that the namespace sent itself)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)

    def frames(self) -> list[bytes]:
        """What has come in since the last call."""
        found: list[bytes] = []
        while True:
            try:
                data, address = self._sock.recvfrom(65535)
            except BlockingIOError:
                return found
            if address[2] != socket.PACKET_OUTGOING:
                found.append(data)

    def with_text(self, text: bytes) -> list[bytes]:
        """Frames that hold the text."""
        return [frame for frame in self.frames() if text in frame]


def receive(sock: socket.socket, timeout: float = _TIMEOUT) -> bytes | None:
    """One datagram, or None after the timeout."""
    ready, _writable, _errors = select.select([sock], [], [], timeout)
    return sock.recv(65535) if ready else None


@contextmanager
def neighbourhood() -> Iterator[Neighbourhood]:
    """Set up, tear down."""
    host, member, beyond = Namespace(), Namespace(), Namespace()
    with member.entered():
        ip("link set lo up")
        set_sysctl("ipv6.conf.default.accept_dad", 0)
    with host.entered():
        set_sysctl("ipv6.conf.default.accept_dad", 0)
        ip("link set lo up")
        veth_pair("a0", "b0", member)
        veth_pair("c0", "d0", beyond)
        ip(f"addr add {SELF4}/24 dev a0")
        ip(f"addr add {SELF6}/64 dev a0 nodad")
        ip("addr add 198.51.100.1/24 dev c0")
        ip("link set a0 up")
        ip("link set c0 up")
        set_sysctl("ipv4.ip_forward", 1)
        index = int(ip("-o link show a0").split(":")[0])
    with member.entered():
        ip(f"addr add {STRICT4}/24 dev b0")
        ip(f"addr add {STRICT6}/64 dev b0 nodad")
        ip("link set b0 up")
        ip(f"route add 198.51.100.0/24 via {SELF4}")
    with beyond.entered():
        ip("link set lo up")
        ip(f"addr add {BEYOND4}/24 dev d0")
        ip("link set d0 up")
        ip("route add default via 198.51.100.1")
    scene = Neighbourhood(host, member, beyond, (index, "a0", True))
    try:
        yield scene
    finally:
        scene.close()


def veth_pair(near: str, far: str, there: Namespace) -> None:
    """A veth pair with its far end in another namespace."""
    from pyroute2 import IPRoute

    ip(f"link add {near} type veth peer name {far}")
    with IPRoute() as link:
        link.link("set", index=link.link_lookup(ifname=far)[0], net_ns_fd=there.fd)


class Flood:
    """Datagrams without end from a socket, in a thread of its own."""

    def __init__(self, sock: socket.socket, dest: tuple[str, int], text: bytes) -> None:
        self._sock, self._dest, self._text = sock, dest, text
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            for _burst in range(32):
                try:
                    self._sock.sendto(self._text, self._dest)
                except OSError:
                    continue  # a drop at egress is told to the sender
                finally:
                    self.sent += 1
            time.sleep(0.0005)

    def more(self, count: int) -> bool:
        """Wait until so many more were sent."""
        goal = self.sent + count
        return eventually(lambda: self.sent >= goal)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()
