# SPDX-License-Identifier: Apache-2.0
"""Truncated, mutated and random frames, and the lengths that the kernel's test run refuses."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Sequence

from tests.bpf import packets


def mutations(
    rng: random.Random, bases: Sequence[bytes], telling: Sequence[int], cut: float
) -> Iterator[tuple[bytes, bool]]:
    """Frames and whether they have a link layer; most with a few bytes changed near the headers.

    telling: bytes that decide something; cut: the share that is truncated.
    """
    while True:
        l2 = rng.random() < 0.6
        packet = rng.choice(bases)
        frame = bytearray(packets.ethernet(packet, *rng.choice([(), (), (packets.VLAN,)])) if l2 else packet)
        kind = rng.random()
        if kind < 0.05:
            frame = bytearray(rng.randbytes(rng.randrange(14, 120)))
        elif kind < 0.85:
            for _change in range(rng.randrange(1, 5)):
                # Mostly what decides (version, lengths, protocol, fragment, ports), seldom addresses.
                frame[min(rng.randrange(len(frame)), rng.randrange(12, 80)) % len(frame)] = rng.choice(
                    [rng.randrange(256), *telling]
                )
        if rng.random() < cut:
            frame = frame[: rng.randrange(14, len(frame) + 1)]
        if len(frame) >= 14:
            yield bytes(frame), l2


def must_be_refused(error: OSError, frame: bytes) -> None:
    """The kernel's test run refuses frames that claim IP and end within its fixed header, and no others.

    Those lengths are met behind VLAN tags and on devices without a link layer.
    """
    short = {b"\x08\x00": 14 + 20, b"\x86\xdd": 14 + 40}.get(frame[12:14], 0)
    assert error.errno == errno.EINVAL and len(frame) < short, frame.hex()
