# SPDX-License-Identifier: Apache-2.0
"""From real observers and a real relay to the page: live, over breaks, with members that are away."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.agent.observe.relays import Relay, relaying
from tests.unit.agent.observe.support import Served, event
from tests.unit.agent.observe.ui_page import LivePage, live_page
from tests.waiting import eventually

from wardmesh.observe.flow import Flow, Lost, LostSource, Party, Verdict
from wardmesh.observe.ui import feed as feed_module

MEMBERS = ("db1", "web1", "web2")


def ports(page: LivePage) -> list[int]:
    """The opener's ports, by which the tests number flows."""
    return sorted(int(row["fromAddress"].rpartition(":")[2]) - 40000 for row in page.updates()["rows"])


def test_flows_of_the_fleet_are_shown_live_and_the_past_first(tmp_path: Path) -> None:
    with relaying(tmp_path, *MEMBERS) as (relay, _client, members):
        for number, member in enumerate(members.values()):
            member.add(event(number, node=member.namer.names.own))
        with live_page(relay.target) as page:
            assert eventually(lambda: ports(page) == [0, 1, 2])
            assert eventually(lambda: page.status()["connected"])
            cursor = page.updates()
            members["web1"].add(event(7, verdict=Verdict.AUDIT, encrypted=False))
            assert eventually(lambda: ports(page) == [0, 1, 2, 7])
            news = page.updates(epoch=cursor["epoch"], cursor=cursor["cursor"])
            assert [row["verdict"] for row in news["rows"]] == ["AUDIT"]
            assert [edge["kind"] for edge in news["edges"]] == ["audited"]
            assert page.updates()["members"] == {f"lab/{name}": "" for name in MEMBERS}


def test_a_member_that_is_away_is_named(tmp_path: Path) -> None:
    with relaying(tmp_path, "db1") as (relay, _client, _members):
        relay.peers("db1", "gone")
        with live_page(relay.target) as page:
            assert eventually(lambda: page.updates()["members"] == {"lab/db1": "", "lab/gone": "unavailable"})
            relay.peers("db1")
            assert eventually(lambda: page.updates()["members"] == {"lab/db1": ""})


def test_a_relay_that_goes_is_told_and_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_LONGEST", 0.5)
    member = Served(tmp_path, own="db1")
    relay = Relay(tmp_path)
    relay.peers("db1")
    try:
        with live_page(relay.target) as page:
            member.add(event(1), event(2))
            assert eventually(lambda: ports(page) == [1, 2])
            relay.close()
            assert eventually(lambda: not page.status()["connected"])
            assert page.status()["why"] and ports(page) == [1, 2]  # what was seen stays
            member.add(event(3))
            relay = Relay(tmp_path)
            relay.peers("db1")
            assert eventually(lambda: page.status()["connected"], 40)
            assert eventually(lambda: ports(page) == [1, 2, 3]), "nothing twice, nothing missing"
            member.add(event(4))
            assert eventually(lambda: ports(page) == [1, 2, 3, 4])
    finally:
        relay.close()
        member.close()


def test_a_relay_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with live_page(f"unix:{tmp_path}/db1.sock") as page:
        assert eventually(lambda: "nobody answers" in page.status()["why"])
        member = Served(tmp_path, own="db1")
        try:
            member.add(event(5))
            assert eventually(lambda: ports(page) == [5], 40)
        finally:
            member.close()


def test_a_stream_that_is_open_before_nobody_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LOOK", 0.2)
    asked: list[str] = []

    def ask(self: object, method: str) -> None:
        asked.append(method)
        if len(asked) == 2:
            raise feed_module.WardmeshError("no answer")

    monkeypatch.setattr(feed_module.ObserverClient, "ask", ask)
    member = Served(tmp_path, own="db1")
    try:
        with live_page(member.target) as page:
            assert eventually(lambda: len(asked) >= 4), "the stream was cut and made anew"
            assert eventually(lambda: page.status()["connected"])
    finally:
        member.close()


def test_lost_events_and_flows_without_sense_are_counted(tmp_path: Path) -> None:
    member = Served(tmp_path, own="db1")
    try:
        with live_page(member.target) as page:
            assert eventually(lambda: page.status()["connected"])

            def told() -> bool:
                member.ring.add([Lost(LostSource.KERNEL, 5, 1, 2)])
                return int(page.status()["lost"]) >= 5

            assert eventually(told)
            hostile = Party(1, "<img src=x onerror=alert(1)>", "lab", ('vm:x="><script>',))
            member.ring.add([Flow(event(9), hostile, hostile, "u", "<b>")])
            assert eventually(lambda: ports(page) == [9])
            assert page.updates()["rows"][0]["from"] == "<img src=x onerror=alert(1)>"
    finally:
        member.close()


def test_a_flow_that_cannot_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_made: object) -> Flow:
        raise feed_module.WardmeshError("a flow has no readable address")

    monkeypatch.setattr(feed_module, "flow_of", broken)
    member = Served(tmp_path, own="db1")
    member.add(event(1))
    try:
        with live_page(member.target) as page:
            assert eventually(lambda: page.status()["unreadable"] == 1)
            assert page.status()["connected"] and page.updates()["rows"] == []
    finally:
        member.close()
