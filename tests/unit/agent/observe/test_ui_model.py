# SPDX-License-Identifier: Apache-2.0
"""What the page keeps: bounded whatever comes, and whole for who polls."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.observe.support import event, namer
from tests.unit.agent.observe.ui_flows import calm, flows, parameters

from wardmesh.observe.flow import Flow, Party, Verdict
from wardmesh.observe.ui import model as model_module
from wardmesh.observe.ui.edges import MOST_PORTS, OTHER, PORTS_TOLD, Edges
from wardmesh.observe.ui.model import CONNECTED, ERROR, GONE, UNAVAILABLE, FlowModel
from wardmesh.observe.ui.rows import row_of
from wardmesh.observe.ui.view import View, read_view

NAMER = namer()


def made(number: int, **changes: Any) -> Flow:
    return NAMER.flow(event(number, **changes))


def between(left: str, right: str, number: int = 1) -> Flow:
    """A flow of two members of these names."""
    return Flow(event(number), Party(1, left), Party(2, right), f"{left}-{right}-{number}", "lab/x")


class Reader:
    """Follows as the page does."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.epoch, self.cursor = "", 0
        self.rows: list[int] = []
        self.edges: dict[tuple[str, str], Any] = {}

    def poll(self, model: FlowModel) -> None:
        answer = model.updates(self.view, self.epoch, self.cursor)
        self.epoch, self.cursor = answer["epoch"], answer["cursor"]
        self.rows += [row["number"] for row in answer["rows"]]
        self.edges.update({(edge["from"], edge["to"]): edge for edge in answer["edges"]})
        self.edges = {k: edge for k, edge in self.edges.items() if edge["changed"] >= answer["oldestEdge"]}
        names = {name for pair in self.edges for name in pair}
        assert {node["name"] for node in answer["nodes"]} <= names


@calm
@given(flows(), parameters(), st.lists(st.integers(1, 7), max_size=12))
def test_who_polls_sees_what_who_came_late_sees(
    seen: list[Flow], asked: dict[str, str], steps: list[int]
) -> None:
    model, view = FlowModel("test"), read_view(asked)
    often, once = Reader(view), Reader(view)
    rest = iter(seen)
    for step in steps:
        model.add(item for _, item in zip(range(step), rest, strict=False))
        often.poll(model)
    model.add(rest)
    often.poll(model)
    once.poll(model)
    assert often.rows == once.rows
    assert often.edges == once.edges


def test_the_newest_rows_are_told_when_there_are_too_many() -> None:
    model = FlowModel("test")
    model.add(made(number) for number in range(2000))
    answer = model.updates(View())
    assert [row["number"] for row in answer["rows"]] == list(range(1501, 2001))
    assert answer["edges"][0]["forwarded"] == 2000


def test_an_answer_has_only_what_is_new() -> None:
    model = FlowModel("test")
    model.add([made(1), made(2, source="10.0.0.2")])
    first = model.updates(View())
    assert first["fresh"] and len(first["edges"]) == 2 and "members" in first
    version = first["membersVersion"]
    again = model.updates(View(), first["epoch"], first["cursor"], version)
    assert not again["fresh"] and (again["rows"], again["edges"], again["nodes"]) == ([], [], [])
    assert "members" not in again
    model.add([made(3)])
    model.tell_members(["lab/web1"], CONNECTED)
    third = model.updates(View(), first["epoch"], first["cursor"], version)
    assert [row["number"] for row in third["rows"]] == [3]
    assert [edge["from"] for edge in third["edges"]] == ["web1"]
    assert third["members"] == {"lab/web1": ""}


def test_a_cursor_of_another_life_begins_anew() -> None:
    model = FlowModel("test")
    model.add([made(1)])
    epoch = model.updates(View())["epoch"]
    for known, cursor in ((epoch, 99), (epoch, -1), ("other", 1), ("", 0)):
        answer = model.updates(View(), known, cursor)
        assert answer["fresh"] and len(answer["rows"]) == 1
    assert FlowModel("test").epoch != epoch


def test_a_flow_that_is_told_twice_counts_once() -> None:
    model = FlowModel("test")
    twice = made(1)
    model.add([twice, twice])
    model.add([twice, twice._replace(uuid=""), twice._replace(uuid="")])  # without a number nobody can know
    assert model.status()["flows"] == 3


def test_rows_are_bounded() -> None:
    model = FlowModel("test", rows=100)
    model.add(made(number) for number in range(1000))
    assert model.status()["kept"] == 100 and len(model._rows) == 100
    model.add(between("a", "b", number) for number in range(50_000))
    assert len(model._uuids) <= model_module._MOST_UUIDS


def test_the_pair_that_was_silent_longest_is_forgotten_and_that_is_told() -> None:
    model = FlowModel("test", edges=10)
    reader = Reader(View())
    model.add(between(f"a{number}", "hub", number) for number in range(10))
    reader.poll(model)
    model.add([between("a0", "hub", 100)])  # not silent any more
    model.add(between(f"b{number}", "hub", number) for number in range(5))
    reader.poll(model)
    assert set(reader.edges) == {
        (name, "hub") for name in ("a0", "a6", "a7", "a8", "a9", *(f"b{n}" for n in range(5)))
    }
    assert model.status()["forgottenEdges"] == 5 and model.status()["edges"] == 10


def test_a_scan_of_ports_is_one_edge_of_bounded_size() -> None:
    edges = Edges()
    for port in range(1, 5001):
        edges.add(row_of(made(1, destination_port=port, verdict=Verdict.DROPPED), port))
    (edge,) = edges.since(0)
    told = edge.document(View())
    assert told is not None and told["dropped"] == 5000
    assert len(edge.ports) == MOST_PORTS + 1 and edge.ports[OTHER].counts[2] == 5000 - MOST_PORTS
    assert len(told["ports"]) == PORTS_TOLD and told["morePorts"] == MOST_PORTS + 1 - PORTS_TOLD
    assert told["ports"][0]["port"] == OTHER  # the busiest first


def test_members_come_go_and_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(model_module, "MOST_MEMBERS", 5)
    model = FlowModel("test")
    model.tell_members([f"lab/h{number}" for number in range(9)], CONNECTED)
    assert model.status()["members"] == 5
    model.tell_members(["lab/h1", "lab/h2"], UNAVAILABLE)
    model.tell_members(["lab/h3"], ERROR, "it " * 500)
    model.tell_members(["lab/h4", "lab/nobody"], GONE)
    members = model.updates(View())["members"]
    assert members["lab/h1"] == "unavailable" and members["lab/h0"] == "" and "lab/h4" not in members
    assert len(members["lab/h3"]) <= 300
    assert model.status()["unavailable"] == 3


def test_the_state_of_the_relay_is_kept_with_its_beginning() -> None:
    model = FlowModel("relay:1")
    assert not model.status()["connected"]
    model.connected()
    since = model.status()["since"]
    model.connected()
    assert model.status()["since"] == since
    model.disconnected("x" * 5000)
    told = model.status()
    assert not told["connected"] and len(told["why"]) <= 300 and told["server"] == "relay:1"
    model.lose(7)
    model.misread()
    assert (model.status()["lost"], model.status()["unreadable"]) == (7, 1)
