# SPDX-License-Identifier: Apache-2.0
"""A member that lies about who it is, and somebody on the wire who sends again what he heard.

The functions run inside a host of hosts.py and keep their sockets there between calls.
"""

from __future__ import annotations

import socket
import struct
import time

PORT = 9797
_ETH_IP = 0x0800
_MARK = 0x1E00  # so that what is sent again goes out by the wire, and not through the tunnel
_DATA = b"\x04\x00\x00\x00"  # WireGuard's message with a packet in it
_listener: socket.socket | None = None
_wire: socket.socket | None = None


def listen(address: str) -> None:
    """Take datagrams on PORT, and look at the wire from now on."""
    global _listener, _wire
    _listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    _listener.bind((address, PORT))
    _wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_IP))
    _wire.bind(("eth0", _ETH_IP))


def heard_until(last: bytes, seconds: float = 20) -> list[tuple[str, bytes]]:
    """The datagrams in their order up to the last one, which must come: from whom, and what."""
    if _listener is None:
        raise RuntimeError("listen comes first")
    found: list[tuple[str, bytes]] = []
    _listener.settimeout(seconds)
    end = time.monotonic() + seconds
    while not found or found[-1][1] != last:
        if time.monotonic() > end:
            raise TimeoutError(found)
        data, peer = _listener.recvfrom(200)
        found.append((peer[0], data))
    return found


def overheard(source: str) -> list[bytes]:
    """The tunnel's messages with data that came from source since listen, as they were on the wire."""
    if _wire is None:
        raise RuntimeError("listen comes first")
    _wire.setblocking(False)
    found = []
    while True:
        try:
            frame = _wire.recv(2000)
        except BlockingIOError:
            return found
        packet = frame[14:]
        body = packet[(packet[0] & 15) * 4 :]
        if packet[9] == socket.IPPROTO_UDP and packet[12:16] == socket.inet_aton(source):
            message = body[8 : int.from_bytes(body[4:6], "big")]
            if message.startswith(_DATA):
                found.append(message)


def say(source: str, dest: str, text: bytes) -> None:
    """A datagram to PORT that claims to come from source."""
    datagram = struct.pack(">HHHH", PORT, PORT, 8 + len(text), 0) + text
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP, 0,
        socket.inet_aton(source), socket.inet_aton(dest),
    )  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as link:
        link.sendto(header + datagram, (dest, 0))


def again(dest: str, messages: list[bytes]) -> None:
    """Send what was overheard once more, past the tunnel."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        for message in messages:
            link.sendto(message, (dest, 51871))
