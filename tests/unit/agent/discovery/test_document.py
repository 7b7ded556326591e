# SPDX-License-Identifier: Apache-2.0
"""The file of what was learned: the same bytes however much of it was known before, and canonical."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.discovery.samples import CLUSTER, claim

from wardmesh.discovery.document import Claim, Departed, Discovered, read_discovered, write_discovered
from wardmesh.model.fleetmap import canonical, digest_of

NUMBERS = st.sets(st.integers(1, 40), max_size=8)


def found(here: set[int], gone: set[int], app: str = "a") -> Discovered:
    claims = {f"h{n}": claim(n, labels={"app": f"{app}, []}}"}) for n in here}
    departed = {f"h{n}": Departed(claim(n), 17.4) for n in gone - here}
    return Discovered(CLUSTER, claims, departed)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from("ab")), max_size=4))
def test_what_is_remembered_never_shows(changes: list[tuple[set[int], set[int], str]]) -> None:
    known: dict[str, tuple[Claim, bytes]] = {}
    for here, gone, app in changes:
        now = found(here, gone, app)
        data = write_discovered(now, known)
        assert data == write_discovered(now)
        document = json.loads(data)
        assert data == canonical(document) + b"\n" and document["digest"] == digest_of(document)
        again = read_discovered(data, "test")
        assert again.claims == now.claims and again.departed.keys() == now.departed.keys()
        assert known.keys() == now.claims.keys()


def test_members_that_did_not_change_stay_the_same_objects() -> None:
    first = read_discovered(write_discovered(found({1, 2}, set())), "test")
    second = read_discovered(write_discovered(found({2, 3}, set())), "test")
    assert second.claims["h2"].member is first.claims["h2"].member
