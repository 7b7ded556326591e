# SPDX-License-Identifier: Apache-2.0
"""Captured frames to facts: just enough of Ethernet, IPv4, IPv6, TCP and UDP to judge a wire."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Frame:
    """One frame; src and dst are texts, protocol the IP protocol number, ports 0 where there are none."""

    time: float
    ethertype: int
    src: str
    dst: str
    protocol: int
    sport: int
    dport: int
    data: bytes


def read(path: Path) -> Iterator[Frame]:
    """Frames of a pcap file as tcpdump writes it (little endian, microseconds, Ethernet)."""
    raw = path.read_bytes()
    at = 24
    while at + 16 <= len(raw):
        seconds, micros, length, _original = struct.unpack_from("<IIII", raw, at)
        data = raw[at + 16 : at + 16 + length]
        at += 16 + length
        yield _frame(seconds + micros / 1e6, data)


def _frame(when: float, data: bytes) -> Frame:
    kind = int.from_bytes(data[12:14], "big")
    src = dst = ""
    protocol = sport = dport = 0
    if kind == 0x0800 and len(data) >= 34:
        src, dst = str(ipaddress.IPv4Address(data[26:30])), str(ipaddress.IPv4Address(data[30:34]))
        protocol, payload = data[23], data[14 + (data[14] & 15) * 4 :]
    elif kind == 0x86DD and len(data) >= 54:
        src, dst = str(ipaddress.IPv6Address(data[22:38])), str(ipaddress.IPv6Address(data[38:54]))
        protocol, payload = data[20], data[54:]
    else:
        payload = b""
    if protocol in (6, 17) and len(payload) >= 4:
        sport, dport = struct.unpack_from(">HH", payload)
    return Frame(when, kind, src, dst, protocol, sport, dport, data)


def plain_between(path: Path, members: set[str], ports: tuple[int, ...] = (51871,)) -> list[Frame]:
    """Frames between members that are neither the tunnels' (by port), nor ARP, nor neighbour discovery."""
    return [
        frame
        for frame in read(path)
        if frame.src in members
        and frame.dst in members
        and not (frame.protocol == 17 and not {frame.sport, frame.dport}.isdisjoint(ports))
        and not (frame.protocol == 58 and frame.data[54:55] and frame.data[54] in range(133, 138))
    ]
