# SPDX-License-Identifier: Apache-2.0
"""The stand-in's programs, written instruction by instruction: no compiler, no headers, no maps.

They pass what the real programs let pass in any case and what a host needs to be reached and mended: frames
that are not IP (ARP, link control), neighbour discovery and path MTU, DHCP, the failsafe ports, WireGuard's
own packets. All else ends here. They keep no flows: of a failsafe port, answers leave and nothing is opened.

A packet that passes is left to the next filter, as in bpf/guard.c.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from wardmesh.datapath.contract import INGRESS, MARK, MARK_MASK

# linux/bpf.h: class, size, mode and operation of an instruction in one byte
_LOAD = {1: 0x71, 2: 0x69, 4: 0x61}  # BPF_LDX | BPF_MEM, by bytes
_STORE_4 = 0x63
_MOVE, _MOVE_REG, _ADD, _ADD_REG, _AND, _OR, _LEFT = 0xB7, 0xBF, 0x07, 0x0F, 0x57, 0x47, 0x67
_ALWAYS, _IF, _IF_NOT, _IF_BITS, _CALL, _EXIT = 0x05, 0x15, 0x55, 0x45, 0x85, 0x95
_SKB_LOAD_BYTES = 26  # enum bpf_func_id
_MARK_AT = 8  # struct __sk_buff
_R0, _R1, _R2, _R3, _R4, _CONTEXT, _PLACE, _PROTOCOL, _STACK = 0, 1, 2, 3, 4, 6, 7, 8, 10
_ROOM = -40  # from the end of the stack: what was read of the packet; an IPv6 header is the longest
_PASS, _DROP = -1, 2  # TC_ACT_UNSPEC, TC_ACT_SHOT

_ETHERNET = 14
_IPV4, _IPV6, _TAGS = 0x0800, 0x86DD, (0x8100, 0x88A8)
_ICMP, _TCP, _UDP, _ICMP6, _SCTP, _HOP_BY_HOP = 1, 6, 17, 58, 132, 0
_FRAGMENT = 0x3FFF  # offset and "more"; not "don't"
_SYN, _SYN_OR_ACK = 0x02, 0x12
_UNREACHABLE = 3  # ICMP: "fragmentation needed" is one of its codes
# ICMPv6: packet too big; MLD, without which switches swallow neighbour discovery; router and neighbour
# solicitations and advertisements (RFC 4890, 4.4.1)
_ICMP6_TYPES = (2, 130, 131, 132, 133, 134, 135, 136, 143)
# DHCP and DHCPv6: of who is asked, and of who asks
_DHCP_SERVERS, _DHCP_CLIENTS = (67, 547), (68, 546)


@dataclass(frozen=True)
class Doors:
    """What stays open. tunnel: WireGuard's ports; failsafe: (protocol, port) that others may reach."""

    tunnel: tuple[int, ...]
    failsafe: tuple[tuple[int, int], ...]


class _Code:
    """Instructions, of which some jump to names that come later."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int, int, str]] = []
        self._labels: dict[str, int] = {}

    def add(
        self, opcode: int, target: int = 0, source: int = 0, value: int = 0, *, at: int = 0, to: str = ""
    ) -> None:
        """One instruction. at: its offset; to: the label that it jumps to."""
        self._rows.append((opcode, target, source, at, value, to))

    def label(self, name: str) -> None:
        """The next instruction is called so."""
        self._labels[name] = len(self._rows)

    def read(self, first: int, size: int) -> None:
        """Copy bytes of the packet to the room, counted from the place; one that ends before is dropped."""
        self.add(_MOVE_REG, _R1, _CONTEXT)
        self.add(_MOVE_REG, _R2, _PLACE)
        self.add(_ADD, _R2, value=first)
        self.add(_MOVE_REG, _R3, _STACK)
        self.add(_ADD, _R3, value=_ROOM)
        self.add(_MOVE, _R4, value=size)
        self.add(_CALL, value=_SKB_LOAD_BYTES)
        self.add(_IF_NOT, _R0, to="drop")

    def load(self, target: int, place: int, size: int) -> None:
        """A field of what was read, into a register."""
        self.add(_LOAD[size], target, _STACK, at=_ROOM + place)

    def bytes(self) -> bytes:
        """Eight bytes for each instruction, in the order of this machine."""
        made = b""
        for number, (opcode, target, source, at, value, to) in enumerate(self._rows):
            offset = self._labels[to] - number - 1 if to else at
            low, high = (target, source) if sys.byteorder == "little" else (source, target)
            made += struct.pack("=BBhi", opcode, high << 4 | low, offset, value)
        return made


def _on_the_wire(number: int) -> int:
    """A field of two bytes, as this machine reads it."""
    return int.from_bytes(number.to_bytes(2, "big"), sys.byteorder)


def instructions(direction: int, l2: bool, doors: Doors) -> bytes:
    """The program of one direction, for devices with a link layer (l2) or without."""
    code = _Code()
    code.add(_MOVE_REG, _CONTEXT, _R1)
    _find_network_layer(code, l2)
    _read_ipv4(code)
    _read_ipv6(code)
    code.label("transport")
    for protocol, name in ((_TCP, "tcp"), (_UDP, "udp"), (_SCTP, "sctp"), (_ICMP, "icmp"), (_ICMP6, "icmp6")):
        code.add(_IF, _PROTOCOL, value=protocol, to=name)
    code.add(_ALWAYS, to="drop")
    _judge_tcp(code, direction, doors)
    _judge_udp(code, direction, doors)
    code.label("sctp")
    code.read(0, 4)
    _failsafe(code, direction, _SCTP, doors)
    _judge_icmp(code, direction)
    code.label("drop")
    code.add(_MOVE, _R0, value=_DROP)
    code.add(_EXIT)
    code.label("pass")
    code.add(_MOVE, _R0, value=_PASS)
    code.add(_EXIT)
    return code.bytes()


def _find_network_layer(code: _Code, l2: bool) -> None:
    """Behind up to two tags. Without a link layer the first half byte says what it is."""
    code.add(_MOVE, _PLACE, value=0)
    if not l2:
        code.read(0, 1)
        code.load(_R1, 0, 1)
        code.add(_AND, _R1, value=0xF0)
        code.add(_IF, _R1, value=0x40, to="ipv4")
        code.add(_IF, _R1, value=0x60, to="ipv6")
        code.add(_ALWAYS, to="drop")
        return
    for number in range(3):
        code.read(_ETHERNET - 2, 2)
        code.load(_R1, 0, 2)
        if number < 2:
            for tag in _TAGS:
                code.add(_IF, _R1, value=_on_the_wire(tag), to=f"tag {number}")
            code.add(_ALWAYS, to="type")
            code.label(f"tag {number}")
            code.add(_ADD, _PLACE, value=4)
    for tag in _TAGS:
        code.add(_IF, _R1, value=_on_the_wire(tag), to="drop")
    code.label("type")
    code.add(_ADD, _PLACE, value=_ETHERNET)
    code.add(_IF, _R1, value=_on_the_wire(_IPV4), to="ipv4")
    code.add(_IF, _R1, value=_on_the_wire(_IPV6), to="ipv6")
    code.add(_ALWAYS, to="pass")


def _read_ipv4(code: _Code) -> None:
    code.label("ipv4")
    code.read(0, 20)
    code.load(_R1, 6, 2)
    code.add(_IF_BITS, _R1, value=_on_the_wire(_FRAGMENT), to="drop")
    code.load(_PROTOCOL, 9, 1)
    code.load(_R1, 0, 1)
    code.add(_AND, _R1, value=0xF)  # length of the header in words
    code.add(_LEFT, _R1, value=2)
    code.add(_ADD_REG, _PLACE, _R1)
    code.add(_IF, _PROTOCOL, value=_ICMP6, to="drop")
    code.add(_ALWAYS, to="transport")


def _read_ipv6(code: _Code) -> None:
    """Of extension headers only the router alert of MLD; that is a hop-by-hop header of eight bytes."""
    code.label("ipv6")
    code.read(0, 40)
    code.load(_PROTOCOL, 6, 1)
    code.add(_ADD, _PLACE, value=40)
    code.add(_IF, _PROTOCOL, value=_ICMP, to="drop")
    code.add(_IF_NOT, _PROTOCOL, value=_HOP_BY_HOP, to="transport")
    code.read(0, 2)
    code.load(_R1, 1, 1)
    code.add(_IF_NOT, _R1, to="drop")
    code.load(_PROTOCOL, 0, 1)
    code.add(_ADD, _PLACE, value=8)
    code.add(_IF_NOT, _PROTOCOL, value=_ICMP6, to="drop")


def _failsafe(code: _Code, direction: int, protocol: int, doors: Doors) -> None:
    """What was read begins with the ports; ours is the destination of what comes, else the source."""
    code.load(_R1, 2 if direction == INGRESS else 0, 2)
    for port in sorted({port for number, port in doors.failsafe if number == protocol}):
        code.add(_IF, _R1, value=_on_the_wire(port), to="pass")
    code.add(_ALWAYS, to="drop")


def _judge_tcp(code: _Code, direction: int, doors: Doors) -> None:
    code.label("tcp")
    code.read(0, 14)
    if direction != INGRESS:  # nothing is opened from a failsafe port
        code.load(_R1, 13, 1)
        code.add(_AND, _R1, value=_SYN_OR_ACK)
        code.add(_IF, _R1, value=_SYN, to="drop")
    _failsafe(code, direction, _TCP, doors)


def _judge_udp(code: _Code, direction: int, doors: Doors) -> None:
    code.label("udp")
    code.read(0, 4)
    code.load(_R1, 2 if direction == INGRESS else 0, 2)
    for port in doors.tunnel:
        code.add(_IF, _R1, value=_on_the_wire(port), to="tunnel")
    code.load(_R1, 2, 2)
    for port in _DHCP_CLIENTS if direction == INGRESS else _DHCP_SERVERS:
        code.add(_IF, _R1, value=_on_the_wire(port), to="pass")
    _failsafe(code, direction, _UDP, doors)
    code.label("tunnel")
    code.add(_LOAD[4], _R1, _CONTEXT, at=_MARK_AT)
    if direction == INGRESS:  # so that the reverse path check looks at the main table
        code.add(_AND, _R1, value=~MARK_MASK)
        code.add(_OR, _R1, value=MARK)
        code.add(_STORE_4, _CONTEXT, _R1, at=_MARK_AT)
        code.add(_ALWAYS, to="pass")
    else:  # only what WireGuard sends has its mark
        code.add(_AND, _R1, value=MARK_MASK)
        code.add(_IF, _R1, value=MARK, to="pass")
        code.add(_ALWAYS, to="drop")


def _judge_icmp(code: _Code, direction: int) -> None:
    code.label("icmp")
    code.read(0, 1)
    code.load(_R1, 0, 1)
    if direction == INGRESS:
        code.add(_IF, _R1, value=_UNREACHABLE, to="pass")
    code.add(_ALWAYS, to="drop")
    code.label("icmp6")
    code.read(0, 1)
    code.load(_R1, 0, 1)
    for kind in _ICMP6_TYPES:
        code.add(_IF, _R1, value=kind, to="pass")
