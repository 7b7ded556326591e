# SPDX-License-Identifier: Apache-2.0
"""Packets as bytes, readable in a table: ethernet(ipv4("10.0.0.1", "10.0.0.2", udp(53, 53)))."""

from __future__ import annotations

import ipaddress
import struct

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
HOPOPTS, ROUTING, FRAGMENT, ESP, AH, DSTOPTS = 0, 43, 44, 50, 51, 60
IPV4, IPV6, ARP, VLAN, QINQ = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8
MORE = 0x2000


def tcp(source: int = 40000, dest: int = 80, payload: bytes = b"GET / HTTP/1.0") -> tuple[int, bytes]:
    """Protocol number and bytes of a TCP segment."""
    return TCP, struct.pack("!HHIIBBHHH", source, dest, 1, 1, 0x50, 0x18, 1024, 0, 0) + payload


def udp(source: int = 40000, dest: int = 53, payload: bytes = b"plain text") -> tuple[int, bytes]:
    """Protocol number and bytes of a UDP datagram."""
    return UDP, struct.pack("!HHHH", source, dest, 8 + len(payload), 0) + payload


def sctp(source: int = 40000, dest: int = 3868) -> tuple[int, bytes]:
    """Protocol number and bytes of an SCTP packet."""
    return SCTP, struct.pack("!HHII", source, dest, 7, 0) + bytes(16)


def icmp(kind: int, code: int = 0) -> tuple[int, bytes]:
    """Protocol number and bytes of an ICMP message."""
    return ICMP, struct.pack("!BBHI", kind, code, 0, 0) + bytes(28)


def icmp6(kind: int, code: int = 0) -> tuple[int, bytes]:
    """Protocol number and bytes of an ICMPv6 message."""
    return ICMP6, struct.pack("!BBHI", kind, code, 0, 0) + bytes(28)


def other(protocol: int) -> tuple[int, bytes]:
    """A protocol without ports."""
    return protocol, bytes(range(24))


def ipv4(
    source: str,
    dest: str,
    inner: tuple[int, bytes],
    *,
    fragment: int = 0,
    options: bytes = b"",
    first: int = 0,
) -> bytes:
    """An IPv4 packet; fragment is the flags and offset field, first overrides version and header length."""
    protocol, payload = inner
    words = 5 + len(options) // 4
    header = struct.pack(
        "!BBHHHBBH4s4s",
        first or 0x40 | words, 0, 4 * words + len(payload), 1, fragment, 64, protocol, 0,
        ipaddress.IPv4Address(source).packed, ipaddress.IPv4Address(dest).packed,
    )  # fmt: skip
    return header + options + payload


def ipv6(
    source: str,
    dest: str,
    inner: tuple[int, bytes],
    *,
    extensions: tuple[tuple[int, bytes], ...] = (),
    hop_limit: int = 64,
    first: int = 0x60,
) -> bytes:
    """An IPv6 packet with extension headers, each as (its number, its bytes after the next-header byte)."""
    protocol, payload = inner
    chain = b""
    following = protocol
    for number, body in reversed(extensions):
        chain = bytes([following]) + body + chain
        following = number
    header = struct.pack("!BBHHBB", first, 0, 0, len(chain) + len(payload), following, hop_limit)
    return (
        header + ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(dest).packed + chain + payload
    )


def hop_by_hop() -> tuple[int, bytes]:
    """A hop-by-hop header of eight bytes (router alert)."""
    return HOPOPTS, bytes([0, 5, 2, 0, 0, 1, 0])


def destination(blocks: int = 0) -> tuple[int, bytes]:
    """A destination options header of 8 × (blocks + 1) bytes."""
    return DSTOPTS, bytes([blocks]) + bytes(6 + 8 * blocks)


def routing() -> tuple[int, bytes]:
    """A routing header of eight bytes."""
    return ROUTING, bytes(7)


def authentication() -> tuple[int, bytes]:
    """An AH header of 24 bytes."""
    return AH, bytes([4]) + bytes(22)


def fragment6(offset: int, more: bool = True) -> tuple[int, bytes]:
    """A fragment header; offset in units of eight bytes."""
    return FRAGMENT, struct.pack("!BHI", 0, offset << 3 | more, 99)


def ethernet(packet: bytes, *tags: int) -> bytes:
    """A frame; tags are the types of VLAN tags that are still in the packet."""
    frame = bytes(6) + bytes.fromhex("020000000001")
    for tag in tags:
        frame += struct.pack("!HH", tag, 42)
    kind = {4: IPV4, 6: IPV6}.get(packet[0] >> 4, ARP) if packet else ARP
    return frame + struct.pack("!H", kind) + packet


def arp(sender: str = "10.0.0.2", target: str = "10.0.0.1") -> bytes:
    """An ARP request."""
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + bytes.fromhex("020000000001")
    body += ipaddress.IPv4Address(sender).packed + bytes(6) + ipaddress.IPv4Address(target).packed
    return ethernet(b"")[:12] + struct.pack("!H", ARP) + body
