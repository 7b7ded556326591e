# SPDX-License-Identifier: Apache-2.0
"""Measures the way to one address: echoes, the largest packet that fits, TCP. Blocks for seconds at most."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from wardmesh.health.icmp import HEADERS, PAYLOAD, Echoes

LEAST = {4: 576, 6: 1280}  # bytes that every link carries (RFC 791, RFC 8200)
_TRIES = 2  # of each size
OPEN, REFUSED, SILENT = "open", "refused", "no answer"


@dataclass(frozen=True)
class Pinged:
    """Round trips in seconds, None: lost; size: bytes of each IP packet; problem: why it was not sent."""

    times: tuple[float | None, ...]
    size: int
    problem: str = ""

    @property
    def answered(self) -> tuple[float, ...]:
        """Those that came back."""
        return tuple(value for value in self.times if value is not None)

    @property
    def loss(self) -> float:
        """Share of the lost ones."""
        return 1 - len(self.answered) / len(self.times) if self.times else 1.0


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def ping(address: str, count: int, *, spacing: float = 0.2, patience: float = 1.0, size: int = 0) -> Pinged:
    """Some echoes; size: bytes of the whole IP packet, sent with DF, 0 for an ordinary one."""
    version = _version(address)
    payload = size - HEADERS[version] if size else PAYLOAD
    found: list[float | None] = [None] * count
    sent: dict[int, float] = {}
    echoes = Echoes(version)
    problem = ""
    try:
        if size:
            echoes.dont_fragment()
        start = time.monotonic()
        for turn in range(count):
            sent[turn] = time.monotonic()
            try:
                echoes.send(address, turn, payload)
            except OSError as error:
                problem = _words(error.errno or 0)
                break
            _collect(echoes, address, sent, found, start + (turn + 1) * spacing, leave=turn == count - 1)
        if not problem:
            _collect(echoes, address, sent, found, time.monotonic() + patience, leave=True)
    finally:
        echoes.close()
    return Pinged(tuple(found), payload + HEADERS[version], problem)


def _collect(
    echoes: Echoes,
    address: str,
    sent: dict[int, float],
    found: list[float | None],
    until: float,
    *,
    leave: bool,
) -> None:
    """Take answers until a time; with leave only as long as one is missing."""
    while not (leave and all(value is not None for value in found)):
        left = until - time.monotonic()
        if left <= 0:
            return
        if not select.select([echoes], [], [], left)[0]:
            return
        now = time.monotonic()
        for reply in echoes.receive():
            turn = reply.sequence
            if reply.address == address and turn in sent and found[turn] is None:
                found[turn] = now - sent[turn]


def path_mtu(address: str, largest: int) -> int:
    """Bytes of the largest IP packet that comes back unfragmented, at most `largest`; 0 where none does."""
    low, high = min(LEAST[_version(address)], largest), largest
    if _fits(address, high):
        return high
    if not _fits(address, low):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(address, middle):
            low = middle
        else:
            high = middle
    return low


def _fits(address: str, size: int) -> bool:
    for _try in range(_TRIES):
        found = ping(address, 1, size=size, spacing=0.0, patience=0.5)
        if found.answered:
            return True
        if found.problem:
            return False
    return False


def connect(address: str, port: int, patience: float = 2.0) -> tuple[str, float]:
    """open, refused, no answer or another error of the kernel; seconds that it took."""
    start = time.monotonic()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as link:
        link.settimeout(patience)
        try:
            link.connect((address, port))
            said = OPEN
        except (TimeoutError, socket.timeout):
            said = SILENT
        except ConnectionRefusedError:
            said = REFUSED
        except OSError as error:
            said = _words(error.errno or 0)
    return said, time.monotonic() - start


def passed(said: str) -> bool:
    """Did the other host answer? A refusal says that nobody listens, and that nothing stands between."""
    return said in (OPEN, REFUSED)


def _words(code: int) -> str:
    if code == errno.EMSGSIZE:
        return "larger than the device's MTU"
    return os.strerror(code).lower()


def spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Least, mean, greatest; None where there are none."""
    return (min(values), sum(values) / len(values), max(values)) if values else None
