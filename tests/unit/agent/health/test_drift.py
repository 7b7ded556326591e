# SPDX-License-Identifier: Apache-2.0
"""Who drifted and why: from facts to differences, over the wire, and against what a rollout would make."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.health.drift import (
    LARGEST,
    MOST,
    PARTS,
    Report,
    compare,
    digest_of_facts,
    document,
    judge,
    judge_all,
    parse_report,
    reference_of,
    rows_of,
    unread,
)
from wardmesh.health.showing import MOST_PEERS, REFRESH, Shown, health_document, read_shown
from wardmesh.model.errors import WardmeshError

VALUES = {"digest": "a" * 64, "generation": "7"}
FACTS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=6)


def right(host: str = "h1") -> Report:
    """A host that is as it should be."""
    return Report(
        host, tuple(compare(name, VALUES, VALUES, VALUES if name == "map" else None) for name in PARTS)
    )


def with_part(report: Report, name: str, enforced: dict[str, str]) -> Report:
    parts = [
        compare(name, enforced, VALUES, enforced if name == "map" else None) if part.name == name else part
        for part in report.parts
    ]
    return replace(report, parts=tuple(parts))


def test_a_host_that_is_as_it_should_be() -> None:
    verdict = judge(right(), reference_of(right("h2")))
    assert verdict.known and not verdict.drifted and verdict.words() == ""
    assert right().digest == right().wanted


@pytest.mark.parametrize("name", PARTS)
def test_each_part_alone_is_named(name: str) -> None:
    report = with_part(right(), name, {"digest": "a" * 64})
    verdict = judge(report, {})
    assert set(verdict.reasons) == {name}
    assert "generation is missing" in verdict.words()
    assert report.digest != report.wanted


@pytest.mark.parametrize(
    ("enforced", "words"),
    [
        ({"digest": "a" * 64}, "generation is missing"),
        ({**VALUES, "h9": "x"}, "h9 is there and should not be"),
        ({**VALUES, "generation": "6"}, "generation is 6, should be 7"),
        ({**VALUES, "generation": ""}, "generation is nothing, should be 7"),
    ],
)
def test_differences_in_words(enforced: dict[str, str], words: str) -> None:
    assert compare("map", enforced, VALUES).differences == (words,)


@given(FACTS, FACTS)
def test_a_difference_is_told_exactly_when_there_is_one(one: dict[str, str], other: dict[str, str]) -> None:
    part = compare("peers", one, other)
    assert bool(part.differences) == (one != other) == (part.enforced != part.wanted)


@given(FACTS)
def test_a_digest_does_not_depend_on_the_order(facts: dict[str, str]) -> None:
    turned = dict(reversed(facts.items()))
    assert digest_of_facts(facts) == digest_of_facts(turned)


def test_what_cannot_be_read_is_not_taken_to_be_right() -> None:
    part = unread("guard", VALUES, "no such file")
    assert judge(Report("h1", (*right().parts[:8], part)), {}).reasons["guard"] == (
        "cannot be read: no such file",
    )


def test_a_part_that_is_not_told_counts_as_drifted() -> None:
    silent = Report("h1", tuple(part for part in right().parts if part.name != "guard"))
    assert judge(silent, {}).reasons == {"guard": ("the host does not tell",)}


def test_an_older_map_is_seen_only_against_the_others() -> None:
    """The host's own files are old, too: it is right by itself, and wrong in the fleet."""
    older = {"digest": "b" * 64, "generation": "6"}
    parts = [
        compare("map", older, older, older) if part.name == "map" else part for part in right("h2").parts
    ]
    report = Report("h2", tuple(parts))
    assert not judge(report, {}).drifted
    verdict = judge(report, reference_of(right()))
    assert set(verdict.reasons) == {"map"}
    assert "generation is 6, a rollout would make it 7" in verdict.words()


def test_who_does_not_answer_is_unknown_and_counts() -> None:
    verdicts = judge_all([right("h2"), Report("h1", problem="no answer within 8 s")], {})
    assert [(item.host, item.known, item.drifted) for item in verdicts] == [
        ("h1", False, True),
        ("h2", True, False),
    ]
    rows = rows_of(verdicts)
    assert rows[0] == {
        "host": "h1",
        "known": False,
        "drifted": True,
        "parts": ["unknown"],
        "why": "unknown: no answer within 8 s",
    }


def test_a_report_over_the_wire_is_the_same() -> None:
    for report in (right(), with_part(right(), "peers", {}), Report("h1", problem="why")):
        assert parse_report(json.dumps(document(report)).encode(), "h1") == report


def test_many_differences_are_bounded() -> None:
    many = {f"10.0.{n >> 8}.{n & 255}/32": "member" for n in range(5000)}
    report = Report("h1", (*right().parts[:-1], compare("routes", {}, many)))
    (part,) = (part for part in report.parts if part.name == "routes")
    assert len(part.differences) == MOST + 1 and part.differences[-1] == f"and {5000 - MOST} more"
    assert len(json.dumps(document(report))) < LARGEST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"format": 2}',
        b'{"format": 1, "parts": {}}',
        b'{"format": 1, "parts": {"map": 7}}',
        b'{"format": 1, "parts": {"map": {"values": 7}}}',
        b'{"format": 1, "parts": {"map": {"differences": {"a": 1}}}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (LARGEST + 1),
    ],
)
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(WardmeshError, match="no digest"):
        parse_report(data, "h1")


def test_a_liar_cannot_write_on_the_terminal() -> None:
    found = document(right())
    found["parts"]["peers"] = {"enforced": 1, "wanted": 2, "differences": ["\x1b[2Jgone" + "x" * 999] * 50}
    report = parse_report(json.dumps(found).encode(), "h1")
    verdict = judge(report, {})
    assert "\x1b" not in verdict.words() and len(verdict.reasons["peers"]) <= MOST + 1
    assert max(map(len, verdict.reasons["peers"])) <= 300


# --- in the store ---


def row(name: str, state: str = "reachable", latency: float = 0.00012) -> dict[str, object]:
    return {
        "name": name,
        "state": state,
        "path": "tunnel",
        "latency": latency,
        "loss": 0.0,
        "jitter": None,
        "addresses": [],
    }


def health(*rows: dict[str, object]) -> dict[str, object]:
    return {"peers": list(rows), "counts": {"reachable": len(rows), "unreachable": 0, "unknown": 0}}


def test_figures_alone_are_no_reason_to_write() -> None:
    shown, report = Shown(), document(right())
    first = shown.of(report, health_document(health(row("h2"))), 0.0)
    assert shown.of(report, health_document(health(row("h2", latency=0.5))), REFRESH - 1) == first
    assert shown.of(report, health_document(health(row("h2", latency=0.5))), REFRESH) != first


def test_a_state_or_a_part_that_changed_is_written_at_once() -> None:
    shown, report = Shown(), document(right())
    first = shown.of(report, health_document(health(row("h2"))), 0.0)
    second = shown.of(report, health_document(health(row("h2", "unreachable"))), 1.0)
    third = shown.of(
        document(with_part(right(), "peers", {})), health_document(health(row("h2", "unreachable"))), 2.0
    )
    assert len({first, second, third}) == 3
    told, peers = read_shown("h1", third)
    assert judge(told, {}).reasons.keys() == {"peers"} and peers["h2"]["state"] == "unreachable"


def test_of_many_peers_those_that_are_not_reached_are_shown() -> None:
    rows = [row(f"h{n:05}") for n in range(9999)] + [row("zz", "unreachable")]
    found = health_document(health(*rows))
    assert len(found["peers"]) == MOST_PEERS and "zz" in found["peers"]
    assert health_document(None) == health_document({"problems": ["off"]}) == {}


@pytest.mark.parametrize("data", [b"", b"7", b'{"format": 9}', b'{"format": 1}', b"[" * 100_000, b"\xff"])
def test_what_somebody_else_wrote_there_is_a_problem_of_that_host(data: bytes) -> None:
    report, peers = read_shown("h1", data)
    assert report.problem.startswith("what it wrote into the store cannot be read") and peers == {}
