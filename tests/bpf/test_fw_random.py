# SPDX-License-Identifier: Apache-2.0
"""Truncated, mutated and random packets of peers that policy denies: none passes but what must always pass.

What a packet is, is decided by the parser of model.py, which was written from the design and not from the C.
"""

from __future__ import annotations

import ipaddress
import random

import pytest
from tests.bpf import packets
from tests.bpf.fw_harness import (
    FOE4,
    FOE6,
    FRIEND4,
    FRIEND6,
    SELF4,
    SELF6,
    STRANGER4,
    STRANGER6,
    FirewallBench,
)
from tests.bpf.harness import LISTEN_PORT
from tests.bpf.model import Parsed, parse
from tests.bpf.mutations import must_be_refused, mutations
from tests.budget import examples

from wardmesh.datapath.contract import EGRESS, INGRESS, MARK, MARK_MASK

pytestmark = pytest.mark.netns

SEED, COUNT = 0xF17E, examples(120_000)
TELLING = (0, 255, 2, 6, 16, 17, 43, 44, 51, 58, 60, 0x45, 0x46, 0x60, 22, 80)
OPEN_TO = [ipaddress.ip_network(text) for text in (FRIEND4, FRIEND6, "10.9.0.0/16", "fd09::/64")]
# RFC 4890 and upstream's table: what IPv6 cannot live without.
ALWAYS6 = {1, 2, 3, 4, *range(130, 137), 141, 142, 143, 148, 149, 151, 152, 153}


def may_pass(found: Parsed | None, direction: int, mark: int, came_in: int) -> bool:
    """Is there any reason to let this packet through?"""
    if found is None or (direction == EGRESS and came_in):
        return True
    if found.broken:
        return False
    remote = ipaddress.ip_address(found.source if direction == INGRESS else found.dest)
    if any(remote in net for net in OPEN_TO):
        return True
    if found.protocol == 17 and direction == EGRESS and mark & MARK_MASK == MARK:
        return True
    if found.icmp is not None:
        kind, code = found.icmp
        if found.version == 6 and found.protocol == 58:
            return kind in ALWAYS6
        return found.version == 4 and found.protocol == 1 and (kind, code) == (3, 4)
    if found.ports is None:
        return False
    source, dest = found.ports
    if direction == INGRESS:
        return (found.protocol, dest) in ((17, LISTEN_PORT), (6, 22))
    return (found.protocol, dest) == (17, 123) or (found.protocol, source) == (6, 22)


def seeds() -> list[bytes]:
    """Packets worth mutating, from and to peers that nothing is open to."""
    inner = [
        packets.tcp(),
        packets.tcp(80, 40000),
        packets.tcp(40000, 22),
        packets.udp(),
        packets.udp(53, 40000),
        packets.udp(1000, LISTEN_PORT),
        packets.sctp(),
        packets.icmp(8),
        packets.icmp(3, 1),
        packets.other(packets.ESP),
    ]
    found = []
    for one, other in ((FOE4, SELF4), (SELF4, FOE4), (STRANGER4, SELF4), (SELF4, STRANGER4)):
        found += [packets.ipv4(one, other, body) for body in inner]
        found += [packets.ipv4(one, other, body, options=bytes(8)) for body in inner]
        found += [packets.ipv4(one, other, body, fragment=part) for body in inner for part in (0x2000, 0x10)]
    for one, other in ((FOE6, SELF6), (SELF6, FOE6), (STRANGER6, SELF6), (SELF6, STRANGER6)):
        bodies = [body for body in inner if body[0] != packets.ICMP] + [
            packets.icmp6(128),
            packets.icmp6(200),
        ]
        for chain in ((), (packets.hop_by_hop(),), (packets.fragment6(0),), (packets.fragment6(3),)):
            found += [packets.ipv6(one, other, body, extensions=chain) for body in bodies]
    return found


def test_nothing_passes_that_policy_denies(wall: FirewallBench) -> None:
    firsts: set[tuple[bytes, bytes, int]] = set()  # what a later fragment may belong to
    source = mutations(random.Random(SEED + 1), seeds(), TELLING, cut=0.2)
    rng, dropped = random.Random(SEED), 0
    for _round in range(COUNT):
        frame, l2 = next(source)
        direction = rng.choice((INGRESS, EGRESS))
        mark, came_in = rng.choice((0, 0, 0, MARK, 0xFFFF1EFF)), rng.choice((0, 0, 0, 7))
        try:
            passed = wall.passes(direction, frame, l2=l2, mark=mark, came_in=came_in)
        except OSError as error:
            must_be_refused(error, frame)
            continue
        dropped += not passed
        found = parse(frame, l2)
        if found and found.ports and any(may_pass(found, way, mark, 0) for way in (INGRESS, EGRESS)):
            firsts.add((found.source, found.dest, found.protocol))
        if passed and not (
            found and (found.source, found.dest, found.protocol) in firsts and found.later_fragment
        ):
            assert may_pass(found, direction, mark, came_in), (
                direction,
                l2,
                hex(mark),
                frame.hex(),
            )
    assert dropped > COUNT // 3
