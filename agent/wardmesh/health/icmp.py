# SPDX-License-Identifier: Apache-2.0
"""Echo requests by a datagram socket of the kernel's ping protocol, or a raw one where that is not allowed.

The socket is bound to nothing: address and way are those that any application's packet would get.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass

from wardmesh.model.errors import WardmeshError

_HEAD = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
TOKEN_BYTES = 8
HEADERS = {4: 28, 6: 48}  # IP and ICMP
PAYLOAD = 56  # what ping sends
_RECEIVE = 65535
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1  # linux/icmp.h, linux/icmpv6.h
_MTU_DISCOVER, _MTU6_DISCOVER, _PROBE = 10, 23, 3  # linux/in.h, in6.h: DF, whatever is known of the path


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def request(version: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    """An echo request; the kernel makes the checksum of ICMPv6."""
    head = _HEAD.pack(_REQUEST[version], 0, 0, identifier, sequence)
    total = checksum(head + payload) if version == 4 else 0
    return _HEAD.pack(_REQUEST[version], 0, total, identifier, sequence) + payload


@dataclass(frozen=True)
class Reply:
    """An answer to one of our requests: from whom, and which."""

    address: str
    sequence: int


def parse_reply(version: int, data: bytes, token: bytes, *, raw: bool) -> int | None:
    """The sequence number of an echo reply that carries our token; None for anything else."""
    if raw and version == 4:  # with the IP header
        if len(data) < 20 or data[0] >> 4 != 4:
            return None
        data = data[(data[0] & 15) * 4 :]
    if len(data) < _HEAD.size + len(token):
        return None
    kind, code, _sum, _identifier, sequence = _HEAD.unpack_from(data)
    if kind != _REPLY[version] or code or data[_HEAD.size : _HEAD.size + len(token)] != token:
        return None
    return int(sequence)


class Echoes:
    """One socket of one IP version; never blocks."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._token = os.urandom(TOKEN_BYTES)
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._socket, self._raw = _open(version)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def dont_fragment(self) -> None:
        """Set DF on what is sent from now on, and believe no known path MTU."""
        level = socket.IPPROTO_IP if self.version == 4 else socket.IPPROTO_IPV6
        option = _MTU_DISCOVER if self.version == 4 else _MTU6_DISCOVER
        self._socket.setsockopt(level, option, _PROBE)

    def send(self, address: str, sequence: int, payload: int = PAYLOAD) -> None:
        """One request with so many bytes after the ICMP header; OSError where the kernel refuses."""
        body = self._token + bytes(max(0, payload - TOKEN_BYTES))
        packet = request(self.version, self._identifier, sequence & 0xFFFF, body)
        self._socket.sendto(packet, (address, 0))

    def receive(self) -> list[Reply]:
        """The answers that wait, at most 64 of them."""
        found = []
        for _turn in range(64):
            try:
                data, sender = self._socket.recvfrom(_RECEIVE)
            except BlockingIOError:
                break
            except OSError:  # an error of an earlier packet: its probe will be lost
                continue
            sequence = parse_reply(self.version, data, self._token, raw=self._raw)
            if sequence is not None:
                found.append(Reply(str(sender[0]).split("%", maxsplit=1)[0], sequence))
        return found

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def _open(version: int) -> tuple[socket.socket, bool]:
    """The socket, and whether it is a raw one."""
    kind = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        return socket.socket(_FAMILY[version], socket.SOCK_DGRAM | kind, _PROTOCOL[version]), False
    except PermissionError:  # net.ipv4.ping_group_range leaves us out
        pass
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            raise _unusable(version, error) from error
    try:
        return _raw(version, kind), True
    except OSError as error:
        raise _unusable(version, error) from error


def _raw(version: int, kind: int) -> socket.socket:
    """A raw socket that gets echo replies and nothing else."""
    made = socket.socket(_FAMILY[version], socket.SOCK_RAW | kind, _PROTOCOL[version])
    replies = struct.pack("=I", ~(1 << _REPLY[4]) & 0xFFFFFFFF)
    if version == 4:
        made.setsockopt(_SOL_RAW, _ICMP_FILTER, replies)
    else:  # 256 bits, set: blocked
        blocked = bytearray(b"\xff" * 32)
        word, bit = divmod(_REPLY[6], 32)
        blocked[word * 4 : word * 4 + 4] = struct.pack("=I", ~(1 << bit) & 0xFFFFFFFF)
        made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))
    return made


def _unusable(version: int, error: OSError) -> WardmeshError:
    return WardmeshError(
        f"cannot open a socket for ICMP over IPv{version}",
        why=error.strerror or str(error),
        remedy="run as root, or give the process CAP_NET_RAW",
    )
