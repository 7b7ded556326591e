# SPDX-License-Identifier: Apache-2.0
"""Members over time: who appears, who departs, and what never makes one depart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.discovery.samples import CLUSTER, entry, member

from wardmesh.discovery.backend import Entry
from wardmesh.discovery.roll import SETTLE, Roll
from wardmesh.model.config import Cluster

LEASE, GRACE = 60.0, 600.0


def roll(*numbers: int) -> Roll:
    made = Roll(CLUSTER, LEASE, GRACE)
    made.snapshot([entry(member(number)) for number in numbers])
    made.changed = False
    return made


def test_who_appears_is_a_member_at_once() -> None:
    made = roll(1)
    made.put(entry(member(2)))
    assert (set(made.claims), made.changed) == ({"h1", "h2"}, True)


def test_the_same_record_again_changes_nothing() -> None:
    made = roll(1, 2)
    made.snapshot([entry(member(1)), entry(member(2))])
    assert not made.changed


def test_a_deleted_record_departs_shortly_after_and_is_forgotten_after_its_grace() -> None:
    made = roll(1, 2)
    made.gone(entry(member(2)).key)
    assert set(made.claims) == {"h1", "h2"}
    made.tick(SETTLE)
    assert (set(made.claims), set(made.departed), made.changed) == ({"h1"}, {"h2"}, True)
    made.changed = False
    made.tick(GRACE - 1)
    assert set(made.departed) == {"h2"}
    made.tick(2)
    assert (made.departed, made.changed) == ({}, True)


def test_who_registers_anew_at_once_never_leaves() -> None:
    made = roll(1, 2)
    made.gone(entry(member(2)).key)
    made.tick(SETTLE / 2)
    made.put(entry(member(2)))
    made.tick(LEASE)
    assert (set(made.claims), made.changed) == ({"h1", "h2"}, False)


def test_a_departed_member_that_comes_back_is_a_member() -> None:
    made = roll(1, 2)
    made.gone(entry(member(2)).key)
    made.tick(SETTLE)
    made.changed = False
    made.put(entry(member(2)))
    assert (set(made.claims), made.departed, made.changed) == ({"h1", "h2"}, {}, True)


def test_a_store_that_was_restored_empty_drops_nobody_for_the_time_of_a_lease() -> None:
    made = roll(1, 2, 3)
    made.snapshot([])
    made.tick(LEASE - 1)
    assert set(made.claims) == {"h1", "h2", "h3"}
    made.put(entry(member(1)))
    made.tick(2)
    assert (set(made.claims), set(made.departed)) == ({"h1"}, {"h2", "h3"})


def test_snapshots_in_a_row_do_not_give_more_time() -> None:
    made = roll(1)
    for _ in range(4):
        made.snapshot([])
        made.tick(LEASE / 4)
    assert made.claims == {}


def test_a_record_that_cannot_be_read_keeps_the_last_good_one_and_is_named() -> None:
    made = roll(1, 2)
    broken = Entry(entry(member(2)).key, b"{", 1, 5)
    made.put(broken)
    made.tick(LEASE)
    made.snapshot([entry(member(1)), broken])
    made.tick(LEASE + 1)
    assert set(made.claims) == {"h1", "h2"}
    assert list(made.skipped) == [broken.key]
    made.put(entry(member(2)))
    assert made.skipped == {}


def test_strange_keys_are_skipped() -> None:
    made = roll()
    good = entry(member(1))
    for name in ("cilium/state/nodes/v1/other/h1", f"{good.key}/more", "cilium/state/nodes/v1/c/", "x"):
        made.put(Entry(name, good.value, 1, 1))
    assert (made.claims, len(made.skipped)) == ({}, 4)


def test_without_a_grace_nothing_is_kept() -> None:
    made = Roll(CLUSTER, LEASE, 0.0)
    made.put(entry(member(1)))
    made.gone(entry(member(1)).key)
    made.tick(SETTLE)
    assert (made.claims, made.departed) == ({}, {})


def test_a_restart_goes_on_where_it_was_unless_the_cluster_is_another() -> None:
    before = roll(1, 2)
    after = Roll(CLUSTER, LEASE, GRACE)
    after.restore(before.found())
    assert set(after.claims) == {"h1", "h2"}
    other = Roll(Cluster("other", 9), LEASE, GRACE)
    other.restore(before.found())
    assert other.claims == {}


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "gone", "bad", "snapshot"]), st.integers(1, 4), st.floats(0, 30)),
    max_size=25,
)


@given(STEPS)
def test_nobody_is_both_member_and_departed_and_who_has_a_good_record_is_a_member(
    steps: list[tuple[str, int, float]],
) -> None:
    made = roll()
    store: dict[int, Entry] = {}
    for kind, number, seconds in steps:
        if kind == "put":
            store[number] = entry(member(number), since=number)
            made.put(store[number])
        elif kind == "gone":
            store.pop(number, None)
            made.gone(entry(member(number)).key)
        elif kind == "bad":
            made.put(Entry(f"cilium/state/nodes/v1/c/h{number + 10}", b"?", 1, 1))
        else:
            made.snapshot(store.values())
        made.tick(seconds)
        assert not set(made.claims) & set(made.departed)
        assert {f"h{number}" for number in store} <= set(made.claims)
