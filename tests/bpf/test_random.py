# SPDX-License-Identifier: Apache-2.0
"""Truncated, mutated and random packets: the programs and the model agree on every one of them.

The model (model.py) is written from the design, not from the C; agreement therefore also says that
nothing passes which strict denies. Forwarding is off in this namespace: no packet is routed on.
"""

from __future__ import annotations

import random

import pytest
from tests.bpf import packets
from tests.bpf.harness import (
    BEHIND4,
    DROP,
    EXCEPTIONS,
    FLEET,
    LISTEN_PORT,
    PASS,
    PLAIN4,
    PLAIN6,
    SELF4,
    SELF6,
    STRANGER4,
    STRICT4,
    STRICT6,
    Bench,
)
from tests.bpf.model import Rules, judge
from tests.bpf.mutations import must_be_refused, mutations
from tests.bpf.test_verdicts import EGRESS_CASES, INGRESS_CASES
from tests.budget import examples

from wardmesh.datapath.contract import DROP_REASONS, EGRESS, INGRESS, MARK

pytestmark = pytest.mark.netns

RULES = Rules(FLEET, frozenset({LISTEN_PORT}), frozenset(EXCEPTIONS))
SEED = 0x57A2D
COUNT = examples(120_000)
TELLING = (0, 255, 6, 17, 43, 44, 51, 58, 60, 0x45, 0x60, 0xCA, 0x9F, 22, 135)


def expected(frame: bytes, direction: int, *, l2: bool, mark: int, came_in: int) -> int:
    """The verdict that the model asks for."""
    reason = judge(RULES, frame, direction, l2=l2, mark=mark, came_in=came_in)
    return DROP if reason in DROP_REASONS else PASS


def agree(bench: Bench, frame: bytes, direction: int, *, l2: bool, mark: int, came_in: int) -> int:
    """Run a frame, compare with the model, return the verdict."""
    wanted = expected(frame, direction, l2=l2, mark=mark, came_in=came_in)
    try:
        verdict = bench.verdict(direction, frame, l2=l2, mark=mark, came_in=came_in).verdict
    except OSError as error:
        must_be_refused(error, frame)
        return PASS
    assert verdict == wanted, (direction, l2, hex(mark), came_in, frame.hex())
    return verdict


def test_every_row_of_the_tables_truncated_at_every_length(bench: Bench) -> None:
    dropped = 0
    for direction, cases in ((EGRESS, EGRESS_CASES), (INGRESS, INGRESS_CASES)):
        for case in cases:
            for l2 in (True, False):
                if case.given.get("raw"):
                    continue
                frame = packets.ethernet(case.packet) if l2 else case.packet
                for length in range(14, len(frame) + 1):
                    verdict = agree(
                        bench,
                        frame[:length],
                        direction,
                        l2=l2,
                        mark=int(case.given.get("mark", 0)),
                        came_in=int(case.given.get("came_in", 0)),
                    )
                    dropped += verdict == DROP
    assert dropped > 1000  # the comparison was not about nothing


def test_the_model_agrees_with_the_tables() -> None:
    """So that the model is no copy of a mistake."""
    for direction, cases in ((EGRESS, EGRESS_CASES), (INGRESS, INGRESS_CASES)):
        for case in cases:
            given = {key: value for key, value in case.given.items() if key != "raw"}
            frame = case.packet if case.given.get("raw") else packets.ethernet(case.packet)
            assert judge(RULES, frame, direction, **given) == case.reason, case.words


def seeds() -> list[bytes]:
    """Packets worth mutating: those of the tables, between all kinds of addresses."""
    found = [case.packet for case in (*EGRESS_CASES, *INGRESS_CASES) if not case.given.get("raw")]
    for source, dest in ((SELF4, STRICT4), (STRICT4, SELF4), (STRANGER4, BEHIND4), (PLAIN4, STRICT4)):
        found += [packets.ipv4(source, dest, packets.tcp()), packets.ipv4(source, dest, packets.udp())]
    for source, dest in ((SELF6, STRICT6), (STRICT6, SELF6), (PLAIN6, STRICT6)):
        found += [packets.ipv6(source, dest, packets.tcp()), packets.ipv6(source, dest, packets.udp())]
    return found


def test_random_packets(bench: Bench) -> None:
    rng = random.Random(SEED)
    dropped = 0
    source = mutations(rng, seeds(), TELLING, cut=0.25)
    for _round in range(COUNT):
        frame, l2 = next(source)
        dropped += (
            agree(
                bench,
                frame,
                rng.choice((EGRESS, INGRESS)),
                l2=l2,
                mark=rng.choice((0, 0, MARK, 0xFFFF1EFF, 0x0E00)),
                came_in=rng.choice((0, 0, 7)),
            )
            == DROP
        )
    assert COUNT // 20 < dropped < COUNT
