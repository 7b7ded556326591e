# SPDX-License-Identifier: Apache-2.0
"""Netlink with nothing but the standard library: requests in batches, dumps, multicast groups.

Why not pyroute2: importing it costs 15 MB and 0.2 s of an agent that may have 40 MB and 0.5 s, it
decodes some 3,000 messages a second where a fleet has 10,000 routes and peers, and its WireGuard sends
one peer per message. What the agent needs of the protocol fits on this page; docs: netlink(7),
rtnetlink(7), the kernel's include/uapi/linux/{netlink,rtnetlink}.h. Numbers are in host byte order.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Union

from wardmesh.model.errors import WardmeshError

NETLINK_ROUTE = 0
NETLINK_GENERIC = 16
_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 1, 10, 11, 12
_ERROR, _DONE = 2, 3
REQUEST, MULTI, ACK, DUMP_INTERRUPTED = 0x01, 0x02, 0x04, 0x10
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
_DUMP = 0x300
_ACK_TLVS = 0x200
NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_ATTR = struct.Struct("=HH")  # length, type
_BATCH_BYTES = 32 << 10  # far below the default send buffer
_BATCH_MESSAGES = 128  # answers to one batch must fit into the default receive buffer
_RECEIVE = 1 << 18
_DUMP_ATTEMPTS = 5

Bytes = Union[bytes, memoryview]


@dataclass(frozen=True)
class Message:
    """A message to send, without its header: type, flags beyond REQUEST, body."""

    type: int
    flags: int
    body: bytes


def attr(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTR.pack(len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attr_u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return attr(kind, struct.pack("=B", value))


def attr_u16(kind: int, value: int) -> bytes:
    """An attribute of two bytes."""
    return attr(kind, struct.pack("=H", value))


def attr_u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes."""
    return attr(kind, struct.pack("=I", value))


def attr_text(kind: int, value: str) -> bytes:
    """A zero-terminated string."""
    return attr(kind, value.encode() + b"\0")


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | NESTED, b"".join(parts))


def walk(data: Bytes) -> Iterator[tuple[int, Bytes]]:
    """The attributes in data as (type, value), in order; a damaged rest is left out."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attrs(data: Bytes) -> dict[int, Bytes]:
    """The attributes in data by type."""
    return dict(walk(data))


def number(data: Bytes) -> int:
    """The number in an attribute of one, two, four or eight bytes."""
    return int.from_bytes(data, "little" if struct.pack("=H", 1)[0] else "big")


def text(data: Bytes) -> str:
    """The string in an attribute."""
    return bytes(data).rstrip(b"\0").decode(errors="replace")


def _messages(data: Bytes) -> Iterator[tuple[int, int, int, int, Bytes]]:
    """(type, flags, sequence, port id, body) of each message in a datagram."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            return
        yield kind, flags, sequence, port, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _error_of(flags: int, body: Bytes) -> OSError | None:
    """The error that an acknowledgement carries, with the kernel's own words where it gives some."""
    code = -int(struct.unpack_from("=i", body)[0])
    if not code:
        return None
    said = ""
    if flags & _ACK_TLVS and len(body) > 20:
        said = text(attrs(body[20:]).get(1, b""))  # NLMSGERR_ATTR_MSG, after the capped header
    return OSError(code, said or os.strerror(code))


class Netlink:
    """One netlink socket. Every call is complete when it returns; not for several threads at once."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.bind((0, 0))
        except OSError as error:
            raise WardmeshError(
                "cannot open a netlink socket",
                why=str(error),
                remedy="the service needs AF_NETLINK among its address families",
            ) from error
        self._sequence = 0
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:  # an older kernel: answers are larger, no more
                    raise
        self._socket.settimeout(30)

    @property
    def port(self) -> int:
        """The port id: what our own changes carry in the notifications of a Monitor."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()

    def request(self, message: Message) -> None:
        """Send one change and wait for its acknowledgement; OSError when the kernel refuses."""
        for error in self.batch([message]):
            if error is not None:
                raise error

    def batch(self, messages: Iterable[Message]) -> list[OSError | None]:
        """Send changes, many to a system call; each one's error or None, in order."""
        results: list[OSError | None] = []
        for chunk in _chunks(messages):
            # The kernel reports errors unasked; an acknowledgement of the last one ends the wait.
            first = self._send([(m.type, m.flags | (ACK if m is chunk[-1] else 0), m.body) for m in chunk])
            answers: list[OSError | None] = [None] * len(chunk)
            for kind, flags, sequence, body in self._answers(first, len(chunk)):
                if kind == _ERROR:
                    answers[sequence - first] = _error_of(flags, body)
                    if sequence - first == len(chunk) - 1:
                        break
            results += answers
        return results

    def ask(self, messages: Iterable[Message]) -> list[bytes | OSError]:
        """Send questions that have one answer each; the answers' bodies or errors, in order."""
        results: list[bytes | OSError] = []
        for chunk in _chunks(messages):
            first = self._send([(m.type, m.flags, m.body) for m in chunk])
            found: dict[int, bytes | OSError] = {}
            for kind, flags, sequence, body in self._answers(first, len(chunk)):
                error = _error_of(flags, body) if kind == _ERROR else None
                found[sequence - first] = error if error is not None else bytes(body)
                if len(found) == len(chunk):
                    break
            results += [found[place] for place in range(len(chunk))]
        return results

    def dump(self, message: Message) -> list[tuple[int, bytes]]:
        """All objects of a kind as (type, body); asked again when they changed under the reading."""
        for _attempt in range(_DUMP_ATTEMPTS):
            first = self._send([(message.type, message.flags | _DUMP, message.body)])
            found: list[tuple[int, bytes]] = []
            interrupted = False
            for kind, flags, _sequence, body in self._answers(first, 1):
                interrupted = interrupted or bool(flags & DUMP_INTERRUPTED)
                if kind in (_DONE, _ERROR):
                    error = _error_of(flags, body) if len(body) >= 4 else None
                    if error is not None:
                        raise error
                    break
                found.append((kind, bytes(body)))
            if not interrupted:
                return found
        raise OSError(errno.EINTR, "the kernel's objects change faster than they can be read")

    def join(self, groups: Iterable[int]) -> None:
        """Subscribe to multicast groups; from then on the socket is for notifications only."""
        self._socket.setblocking(False)
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """For select and poll."""
        return self._socket.fileno()

    def notifications(self) -> Iterator[tuple[int, int, bytes]]:
        """What waits here: (type, port id of who changed it, body); OSError ENOBUFS when some were lost."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return
            for kind, _flags, _sequence, port, body in _messages(data):
                yield kind, port, bytes(body)

    def set_receive_buffer(self, size: int) -> None:
        """Ask for a larger receive buffer, beyond the system's limit where we may."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _send(self, parts: list[tuple[int, int, bytes]]) -> int:
        """Send messages in one system call; the first one's sequence number."""
        first = self._sequence + 1
        packed = bytearray()
        for kind, flags, body in parts:
            self._sequence += 1
            packed += _HEADER.pack(16 + len(body), kind, flags | REQUEST, self._sequence & 0xFFFFFFFF, 0)
            packed += body + b"\0" * (-len(body) % 4)
        self._socket.send(packed)
        return first

    def _answers(self, first: int, count: int) -> Iterator[tuple[int, int, int, Bytes]]:
        """What comes back for these sequence numbers; leftovers of a broken-off call are skipped."""
        while True:
            data = memoryview(self._socket.recv(_RECEIVE))
            for kind, flags, sequence, _port, body in _messages(data):
                if first <= sequence < first + count:
                    yield kind, flags, sequence, body


def _chunks(messages: Iterable[Message]) -> Iterator[list[Message]]:
    chunk: list[Message] = []
    size = 0
    for message in messages:
        if chunk and (size + len(message.body) > _BATCH_BYTES or len(chunk) >= _BATCH_MESSAGES):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += len(message.body) + 16
    if chunk:
        yield chunk
