# SPDX-License-Identifier: Apache-2.0
"""The page's filters: the same for rows and for the map, and the same as those of `wardmesh observe`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.observe.support import event, flow
from tests.unit.agent.observe.ui_flows import LABELS, TUNNELS, VERDICTS, calm, flows, parameters

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.aggregate import name_of, oriented
from wardmesh.observe.filters import compile_filters
from wardmesh.observe.flags import Given, build_filters
from wardmesh.observe.flow import Flow, Kind, Party, Policy, Verdict
from wardmesh.observe.ui.edges import Edges
from wardmesh.observe.ui.rows import FORWARDED, OUTCOMES, row_of
from wardmesh.observe.ui.view import read_view


def admitted(made: list[Flow], given_parameters: dict[str, str]) -> list[Any]:
    view = read_view(given_parameters)
    rows = [row_of(item, number) for number, item in enumerate(made, 1)]
    return [row for row in rows if view.admits(row)]


@calm
@given(flows(), st.sampled_from(LABELS), st.sampled_from(VERDICTS), st.sampled_from(TUNNELS))
def test_a_filter_means_what_it_means_to_hubbles_client(
    made: list[Flow], label: str, verdict: str, tunnel: str
) -> None:
    words = {"forwarded": "FORWARDED", "dropped": "DROPPED", "audited": "AUDIT"}
    flags = [Given("label", label)] if label else []
    flags += [Given("verdict", words[word]) for word in verdict.split(",") if word]
    flags += [Given("encrypted" if tunnel == "encrypted" else "unencrypted", "true")] if tunnel else []
    keep = compile_filters(*build_filters(flags))
    wanted = [number for number, item in enumerate(made, 1) if keep(item)]
    found = admitted(made, {"label": label, "verdict": verdict, "tunnel": tunnel})
    assert [row.number for row in found] == wanted


@calm
@given(flows(), parameters())
def test_the_map_shows_exactly_the_pairs_of_the_rows(made: list[Flow], asked: dict[str, str]) -> None:
    view, edges = read_view(asked), Edges()
    for number, item in enumerate(made, 1):
        edges.add(row_of(item, number))
    wanted: dict[tuple[str, str], dict[str, int]] = {}
    for row in admitted(made, asked):
        counts = wanted.setdefault((row.left.name, row.right.name), dict.fromkeys(OUTCOMES, 0))
        counts[row.outcome] += 1
    told = [edge.document(view) for edge in edges.since(0)]
    found = {(t["from"], t["to"]): {name: t[name] for name in OUTCOMES} for t in told if t}
    assert found == wanted


@calm
@given(flows(), parameters())
def test_the_colour_of_an_edge_is_the_worst_of_what_is_wanted(
    made: list[Flow], asked: dict[str, str]
) -> None:
    view, edges = read_view(asked), Edges()
    for number, item in enumerate(made, 1):
        edges.add(row_of(item, number))
    for told in filter(None, (edge.document(view) for edge in edges.since(0))):
        pair = (told["from"], told["to"])
        rows = [row for row in admitted(made, asked) if (row.left.name, row.right.name) == pair]
        outcomes = {row.outcome for row in rows}
        plain = any(not row.encrypted for row in rows if row.outcome != "dropped")
        worst = next((word for word in ("dropped", "audited") if word in outcomes), "")
        assert told["kind"] == (worst or ("plain" if plain else "encrypted"))


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"label": "app in web"}, "label"),
        ({"label": "a=b," * 2000}, "label"),
        ({"fromLabel": "=x"}, "fromLabel"),
        ({"toLabel": "<script>"}, "toLabel"),
        ({"host": "we b*"}, "host"),
        ({"from": "*<"}, "from"),
        ({"verdict": "allowed"}, "verdict"),
        ({"verdict": "dropped,x"}, "verdict"),
        ({"tunnel": "yes"}, "tunnel"),
    ],
)
def test_a_filter_that_cannot_be_read_is_named(asked: dict[str, str], where: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        read_view(asked)
    assert caught.value.where == where


def test_the_opener_stands_on_the_left() -> None:
    asked = flow(1)
    answered = flow(
        2, source="10.0.0.11", destination="10.0.0.1", source_port=5432, destination_port=40001, is_reply=True
    )
    for item in (asked, answered):
        row = row_of(item, 1)
        assert (row.left.name, row.right.name, row.port) == ("web1", "db1", "5432/tcp")
        assert row.left_address.startswith("10.0.0.1:4000") and row.right_address == "10.0.0.11"
        left, right, _port = oriented(item)
        assert (name_of(left), name_of(right)) == ("web1", "db1")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (FORWARDED, "FORWARDED", "verdict ingress", "", "L3-L4")),
        (
            {"verdict": Verdict.DROPPED, "kind": Kind.DROP, "drop_reason": 195},
            ("dropped", "DROPPED", "drop ingress", "", "Traffic is unencrypted"),
        ),
        (
            {"verdict": Verdict.AUDIT, "denied_by": (Policy("deny-all", "ns"),)},
            ("audited", "AUDIT", "verdict ingress", "ns/deny-all", "Policy denied"),
        ),
        (
            {"allowed_by": (Policy("a"), Policy("b"), Policy("a"))},
            (FORWARDED, "FORWARDED", "verdict ingress", "a, b", "L3-L4"),
        ),
        ({"kind": Kind.TRACE, "observation_point": 10}, (FORWARDED, "FORWARDED", "from-network", "", "")),
    ],
)
def test_what_a_row_says(changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    row = row_of(flow(1, **changes), 7)
    assert (row.outcome, row.verdict, row.kind, row.policies, row.reason) == expected
    assert row.document()["number"] == 7


def test_addresses_of_both_families_and_what_has_no_ports() -> None:
    six = row_of(flow(1, source="fd00::1", destination="fd00::2"), 1)
    assert (six.left_address, six.right_address) == ("[fd00::1]:40001", "fd00::2")
    ping = row_of(flow(1, protocol=1, icmp_type=8, source_port=0, destination_port=0), 1)
    assert (ping.left_address, ping.port) == ("10.0.0.1", "8/icmp")


def test_what_came_over_the_network_is_cut() -> None:
    long = Party(9, "n" * 5000, "c", tuple(f"vm:k{number}={'v' * 5000}" for number in range(500)))
    policies = tuple(Policy("p" * 5000) for _ in range(500))
    made = Flow(event(1, allowed_by=policies), long, long, "u", "m" * 5000)
    row = row_of(made, 1)
    assert len(row.left.name) == 253 and len(row.left.labels) == 64
    assert max(map(len, row.left.labels)) <= 400
    assert len(row.policies) <= 300 and len(row.node) <= 506
