# SPDX-License-Identifier: Apache-2.0
"""The compiled form says what the engine says, for all fleets of the tables and at every edge of a port."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from wardmesh.policy.cases import PROTOCOLS, Case, read_cases
from wardmesh.policy.compile import compile_direction
from wardmesh.policy.ports import LAST_PORT

TABLES = Path(__file__).parents[4] / "tests/conformance/tables"


def check(case: Case) -> int:
    """Compare both forms for all subjects and entries of a case; how many comparisons were made."""
    done = 0
    universe = case.engine.universe
    for subject in case.endpoints.values():
        for ingress in (True, False):
            direction = case.engine.direction(subject, ingress)
            compiled = compile_direction(direction, universe.everything)
            edges = {0, LAST_PORT} | {
                port
                for grant in direction.grants
                for r in grant.ranges or ()
                for port in (r.first - 1, r.first, r.last, r.last + 1)
            }
            for place in range(len(universe.entries)):
                for protocol in PROTOCOLS.values():
                    limit = 255 if protocol in (1, 58) else LAST_PORT
                    for port in sorted(edge for edge in edges if 0 <= edge <= limit):
                        expected = direction.decide(place, protocol, port)[0]
                        assert compiled.action(place, protocol, port) is expected
                        done += 1
                assert compiled.action(place, 47, 0) is direction.decide(place, 47, 0)[0]
    return done


@pytest.mark.parametrize("name", ["semantics.jsonl", "verdicts.jsonl"])
def test_the_compiled_form_is_the_engines(name: str) -> None:
    lines = (TABLES / name).read_text().splitlines()
    text = "\n".join(lines if name.startswith("sem") else lines[::10])
    assert sum(check(case) for case in read_cases(text, name)) > 20_000


def test_every_port_has_one_class() -> None:
    case = next(iter(read_cases((TABLES / "verdicts.jsonl").read_text(), "verdicts")))
    for subject in case.endpoints.values():
        compiled = compile_direction(case.engine.direction(subject, True), case.engine.universe.everything)
        for protocol in PROTOCOLS.values():
            own = [segment for segment in compiled.segments if segment.protocol == protocol]
            assert own[0].first == 0 and own[-1].last == (255 if protocol in (1, 58) else LAST_PORT)
            assert all(a.last + 1 == b.first for a, b in pairwise(own))
        together = 0
        for members, actions in compiled.groups:
            assert not together & members
            together |= members
            assert len(actions) == 1 + max(segment.number for segment in compiled.segments)
        assert together == case.engine.universe.everything
