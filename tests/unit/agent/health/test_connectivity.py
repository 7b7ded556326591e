# SPDX-License-Identifier: Apache-2.0
"""Who tests whom, what was to be found, and what a difference is."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from wardmesh.health.connectivity import Expected, Outcome, Port, Target, judge_test, read_plan, row
from wardmesh.health.pairs import ALL_PAIRS, PARTNERS, targets
from wardmesh.health.reach import OPEN, REFUSED, SILENT, Pinged
from wardmesh.model.errors import WardmeshError

GOOD, SILENCE = Pinged((0.001, 0.002, 0.001), 84), Pinged((None, None, None), 84)
LARGE = Pinged((0.001,), 1420)


@pytest.mark.parametrize("count", [2, 3, ALL_PAIRS])
def test_in_a_small_fleet_everybody_tests_everybody(count: int) -> None:
    names = [f"host{number}" for number in range(count)]
    assert all(set(targets(names, own)) == set(names) - {own} for own in names)


@pytest.mark.parametrize("count", [ALL_PAIRS + 1, 100, 1000])
def test_in_a_sample_everybody_tests_as_many_as_test_him(count: int) -> None:
    names = [f"host{number}" for number in range(count)]
    chosen = {own: targets(names, own) for own in names}
    assert all(len(set(found)) == PARTNERS and own not in found for own, found in chosen.items())
    tested = Counter(name for found in chosen.values() for name in found)
    assert set(tested.values()) == {PARTNERS} and len(tested) == count


def outcome(
    small: Pinged = GOOD,
    large: Pinged | None = LARGE,
    said: str = OPEN,
    encrypted: bool | None = True,
    icmp: bool = True,
    port: bool = True,
) -> Outcome:
    target = Target("b", Expected(icmp, "rule 1"), (Port("5432/tcp", Expected(port, "rule 2")),))
    return Outcome(target, "10.0.0.2", small, large, {"5432/tcp": said}, encrypted, "0 bytes")


CASES = [
    (outcome(), ""),
    (outcome(said=REFUSED), ""),  # nobody listens, and nothing stands between
    (outcome(said=SILENT), "5432/tcp: expected to pass (rule 2), found: no answer"),
    (outcome(said="no route to host"), "found: no route to host"),
    (outcome(said=SILENT, port=False), ""),
    (outcome(port=False), "5432/tcp: expected to be denied (rule 2), found: open"),
    (outcome(said=REFUSED, port=False), "found: connection refused"),
    (outcome(small=SILENCE, large=None), "ping: expected to pass (rule 1), found: no answer"),
    (outcome(small=SILENCE, large=None, icmp=False), ""),
    (outcome(icmp=False), "ping: expected to be denied (rule 1), found: answered"),
    (outcome(small=Pinged((0.1, None, None), 84)), "ping: 67% lost"),
    (outcome(large=Pinged((None,), 1420)), "large packets: 1420 bytes do not pass"),
    (outcome(encrypted=False), "not encrypted: 0 bytes"),
    (outcome(encrypted=None), ""),
]


@pytest.mark.parametrize(("case", "word"), CASES)
def test_differences(case: Outcome, word: str) -> None:
    found = judge_test(case, encryption=True)
    assert bool(found) is bool(word) and word.replace("connection refused", "refused") in "; ".join(found)
    made = row("a", case, found)
    assert made["ok"] is (not found) and (made["from"], made["to"]) == ("a", "b")
    assert all(cell and " " not in cell for cell in made["cells"].values())


def test_where_encryption_is_off_plain_is_no_difference() -> None:
    assert judge_test(outcome(encrypted=False), encryption=False) == []


def test_the_table_says_whether_policy_holds() -> None:
    assert row("a", outcome(), [])["cells"]["POLICY"] == "ok"
    wrong = outcome(port=False)
    assert row("a", wrong, judge_test(wrong, encryption=True))["cells"]["POLICY"] == "DIFFERS"
    lossy = outcome(encrypted=False)  # no matter of policy
    assert row("a", lossy, judge_test(lossy, encryption=True))["cells"]["POLICY"] == "ok"


def test_a_plan_survives_its_way_to_the_host() -> None:
    target = outcome().target
    assert read_plan(json.dumps({"targets": [target.as_dict()]}).encode(), "plan") == [target]


PLAN = b'{"targets": [{"name": "b", "icmp": {"passes": true}, "ports": [{"port": "%s", "passes": true}]}]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"targets": [{}]}',
        b'{"targets": [{"name": "b", "icmp": {"passes": 1}, "ports": []}]}',
        PLAN % b"0/tcp",
        PLAN % b"5/udp",
        PLAN % b"tcp",
        b"[" * 100000,
    ],
)
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(WardmeshError):
        read_plan(data, "plan")
