# SPDX-License-Identifier: Apache-2.0
"""The guard's rules a second time, in plain Python and written from the design, to compare with."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from wardmesh.datapath.contract import (
    EGRESS,
    EXEMPT,
    FORWARDED,
    INVALID,
    MARK,
    MARK_MASK,
    MEMBER,
    PLAINTEXT,
    SELF,
    STRICT,
    TUNNEL,
    UNENCRYPTED,
    Network,
)

_PORT_PROTOCOLS = {1, 6, 17, 58, 132}
_EXTENSIONS = {0, 43, 44, 51, 60}
_MOST_EXTENSIONS = 8


@dataclass(frozen=True)
class Rules:
    """What the guard was told."""

    members: Mapping[Network, tuple[int, int]]
    ports: frozenset[int] = frozenset({51871})
    exceptions: frozenset[tuple[int, int]] = frozenset()

    def flags(self, address: bytes) -> int:
        """Flags of the longest matching network, 0 for strangers."""
        ip = ipaddress.ip_address(address)
        best = max((n for n in self.members if ip in n), key=lambda n: n.prefixlen, default=None)
        return self.members[best][1] if best is not None else 0


@dataclass
class Parsed:
    """What can be read of a packet; broken: the transport cannot be."""

    version: int
    source: bytes
    dest: bytes
    protocol: int = 0
    hop_limit: int = 0
    broken: bool = False
    later_fragment: bool = False
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int] | None = None


@dataclass
class Cursor:
    """Bytes and a place in them."""

    data: bytes
    at: int = field(default=0)

    def peek(self, count: int) -> bytes | None:
        """The next bytes, None when the packet ends before."""
        found = self.data[self.at : self.at + count]
        return found if len(found) == count else None


def parse(frame: bytes, l2: bool) -> Parsed | None:
    """Read a frame; None for what is no IP."""
    cursor = Cursor(frame)
    kind = 0
    if l2:
        kind = int.from_bytes(frame[12:14], "big")
        cursor.at = 14
        for _tag in range(2):
            if kind not in (0x8100, 0x88A8):
                break
            tag = cursor.peek(4)
            if tag is None:
                return None
            kind = int.from_bytes(tag[2:], "big")
            cursor.at += 4
    elif frame:
        kind = {4: 0x0800, 6: 0x86DD}.get(frame[0] >> 4, 0)
    if kind == 0x0800:
        return _parse4(cursor)
    if kind == 0x86DD:
        return _parse6(cursor)
    return None


def _parse4(cursor: Cursor) -> Parsed | None:
    header = cursor.peek(20)
    if header is None:
        return None
    parsed = Parsed(4, header[12:16], header[16:20], protocol=header[9])
    words = header[0] & 15
    if header[0] >> 4 != 4 or words < 5:
        parsed.broken = True
        return parsed
    cursor.at += 4 * words
    if int.from_bytes(header[6:8], "big") & 0x1FFF:
        parsed.later_fragment = True
        return parsed
    return _transport(cursor, parsed)


def _parse6(cursor: Cursor) -> Parsed | None:
    header = cursor.peek(40)
    if header is None:
        return None
    parsed = Parsed(6, header[8:24], header[24:40], protocol=header[6], hop_limit=header[7])
    if header[0] >> 4 != 6:
        parsed.broken = True
        return parsed
    cursor.at += 40
    for _extension in range(_MOST_EXTENSIONS):
        kind = parsed.protocol
        if kind not in _EXTENSIONS:
            return _transport(cursor, parsed)
        extension = cursor.peek(8)
        if extension is None:
            parsed.broken = True
            return parsed
        parsed.protocol = extension[0]
        if kind == 44:
            cursor.at += 8
            if int.from_bytes(extension[2:4], "big") & 0xFFF8:
                parsed.later_fragment = True
                return parsed
        else:
            cursor.at += (extension[1] + 2) * 4 if kind == 51 else (extension[1] + 1) * 8
    parsed.broken = True
    return parsed


def _transport(cursor: Cursor, parsed: Parsed) -> Parsed:
    if parsed.protocol not in _PORT_PROTOCOLS:
        return parsed
    start = cursor.peek(4)
    if start is None:
        parsed.broken = True
    elif parsed.protocol in (1, 58):
        parsed.icmp = (start[0], start[1])
    else:
        parsed.ports = (int.from_bytes(start[:2], "big"), int.from_bytes(start[2:], "big"))
    return parsed


def judge(
    rules: Rules,
    frame: bytes,
    direction: int,
    *,
    l2: bool = True,
    mark: int = 0,
    came_in: int = 0,
    routed: bool = False,
) -> int | None:
    """The reason that the guard must count, None when the packet is none of its business."""
    parsed = parse(frame, l2)
    if parsed is None:
        return None
    flags = rules.flags(parsed.dest if direction == EGRESS else parsed.source)
    if not flags & MEMBER:
        return None
    if not parsed.broken:
        if _tunnel(rules, parsed, direction, mark):
            return TUNNEL
        if _exempt(rules, parsed) or (direction != EGRESS and _group(parsed)):
            return EXEMPT
    strict = bool(flags & STRICT)
    if direction == EGRESS:
        if came_in and not rules.flags(parsed.source) & SELF:
            return FORWARDED
    elif strict and routed:
        return FORWARDED
    if not strict:
        return PLAINTEXT
    return INVALID if parsed.broken else UNENCRYPTED


def _tunnel(rules: Rules, parsed: Parsed, direction: int, mark: int) -> bool:
    if parsed.protocol != 17 or (direction == EGRESS and mark & MARK_MASK != MARK):
        return False
    if parsed.later_fragment:
        return True
    return parsed.ports is not None and parsed.ports[0 if direction == EGRESS else 1] in rules.ports


def _exempt(rules: Rules, parsed: Parsed) -> bool:
    if parsed.icmp is not None:
        kind, code = parsed.icmp
        if parsed.version == 4 and parsed.protocol == 1 and (kind, code) == (3, 4):
            return True
        if parsed.version == 6 and parsed.protocol == 58:
            if 133 <= kind <= 137:
                if parsed.hop_limit == 255:
                    return True
            elif kind in (2, 130, 131, 132, 143):
                return True
    keys = {(parsed.protocol, 0)}
    if parsed.ports is not None:
        keys |= {(parsed.protocol, port) for port in parsed.ports}
    return bool(keys & rules.exceptions)


def _group(parsed: Parsed) -> bool:
    dest = ipaddress.ip_address(parsed.dest)
    return dest.is_multicast or str(dest) == "255.255.255.255"
