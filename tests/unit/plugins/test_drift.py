# SPDX-License-Identifier: Apache-2.0
"""The play's comparison: what hosts said, what would be rolled out, and who was not reached."""

from __future__ import annotations

from typing import Any

from tests.loading import load

from wardmesh.health.drift import PARTS, Report, compare, document
from wardmesh.policy.files import policy_digest

drift = load("plugins/plugin_utils/_drift.py")
VALUES = {"digest": "a" * 64}
REFERENCE = {"map": VALUES, "policies": VALUES}


def said(config: str = "", **enforced: dict[str, str]) -> dict[str, Any]:
    """What the module digest registered; a part by its name is something else than wanted."""
    parts = tuple(
        compare(name, enforced.get(name, VALUES), VALUES, enforced.get(name, VALUES)) for name in PARTS
    )
    return {"report": document(Report("", parts)), "config": config}


def test_the_table_names_everybody_and_why() -> None:
    answers = {"a": said(), "b": said(peers={}), "c": said(map={"digest": "old"})}
    found = drift.compare(["c", "a", "b", "d"], answers, REFERENCE, [])
    assert found["drifted"] == ["b", "c", "d"] and found["changed"] is False
    assert [line.split()[:2] for line in found["table"][1:]] == [
        ["a", "ok"],
        ["b", "DRIFTED"],
        ["c", "DRIFTED"],
        ["d", "unknown"],
    ]
    parts = {row["host"]: row["parts"] for row in found["hosts"]}
    assert parts == {"a": [], "b": ["peers"], "c": ["map"], "d": ["unknown"]}
    assert "was not reached" in found["table"][4]


def test_a_configuration_that_a_rollout_would_change() -> None:
    found = drift.compare(["a", "b"], {"a": said("a" * 64), "b": said("b" * 64)}, REFERENCE, [])
    assert found["drifted"] == ["b"] and found["hosts"][1]["parts"] == ["config"]


def test_somebody_who_joins_is_news_for_everybody() -> None:
    """A run on the drifted alone would else leave the others without their new peer."""
    nobody = {"report": {"format": 1, "problem": "the agent is not installed"}}
    found = drift.compare(["a", "new"], {"a": said(), "new": nobody}, REFERENCE, ["new"])
    assert found["drifted"] == ["a", "new"]
    assert "new will join" in found["hosts"][0]["why"]
    assert "not installed" in found["hosts"][1]["why"]


def test_answers_that_are_none() -> None:
    answers = {"a": {"report": {"format": 9}}, "b": {"failed": True}, "c": {"report": None}}
    found = drift.compare(["a", "b", "c"], answers, REFERENCE, [])
    assert found["drifted"] == ["a", "b", "c"] and not any(row["known"] for row in found["hosts"])


def test_policies_have_the_digest_that_hosts_tell() -> None:
    files = {"b.yaml": "two", "a.yaml": "one"}
    assert drift.policies(files) == policy_digest((("a.yaml", "one"), ("b.yaml", "two")))
