# SPDX-License-Identifier: Apache-2.0
"""Agents of a simulated fleet at a stand-in for Consul (see consul_standin.py for what that proves)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import Agent, fleet, follower
from consul_standin import Standin
from tests.certificates import Authority
from tests.unit.agent.discovery.samples import CLUSTER, entry, member
from tests.waiting import wait_for

from wardmesh.discovery import consul as client
from wardmesh.discovery.keys import node_key, nodes_prefix
from wardmesh.model.errors import WardmeshError

PREFIX = nodes_prefix(CLUSTER.name)


@pytest.fixture(autouse=True)
def renewed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of the stand-in are shorter than Consul's shortest; they are renewed as often."""
    monkeypatch.setattr(follower, "RENEWALS", 10)


@pytest.fixture
def consul() -> Iterator[Standin]:
    made = Standin().start()
    yield made
    made.end()


def test_who_appears_is_known_to_all_and_who_dies_is_gone_after_its_session(consul: Standin) -> None:
    with fleet(consul.settings(), 1, 2) as agents:
        third = Agent(3, consul.settings()).start()
        for agent in agents:
            agent.knows(1, 2, 3)
        third.end()
        for agent in agents:
            agent.knows(1, 2)
            assert set(agent.roll.departed) == {"h3"}


def test_labels_changed_on_one_host_reach_all(consul: Standin) -> None:
    with fleet(consul.settings(), 1, 2) as (first, second):
        first.labels = {"app": "db"}
        for agent in (first, second):
            wait_for(lambda a=agent: a.roll.claims["h1"].member.labels == {"app": "db"}, "the label arrives")


def test_a_host_that_starts_again_takes_its_own_record_over(consul: Standin) -> None:
    with fleet(consul.settings(), 1, 2) as (first, second):
        first.end()
        again = Agent(1, consul.settings()).start()
        again.registered()
        again.end()
        assert second.never_lost(1, 2)


def test_a_name_that_another_host_has_is_not_taken(consul: Standin) -> None:
    with fleet(consul.settings(), 1) as (first,):
        clone = Agent(1, consul.settings(), key=member(9).key).start()
        wait_for(lambda: "another host" in clone.state.registration, "the clone says so")
        assert first.roll.claims["h1"].member.key == member(1).key
        clone.end()


def test_a_deleted_record_and_a_lost_session_come_back(consul: Standin) -> None:
    with fleet(consul.settings(), 1, 2) as agents:
        consul.drop(node_key("c", "h1"))
        wait_for(lambda: len(consul.keys) == 2, "it is there again")
        consul.sessions.clear()
        for row in consul.keys.values():
            row["Session"] = ""
        wait_for(lambda: len(consul.sessions) == 2, "new sessions")
        for agent in agents:
            assert agent.never_lost(1, 2)


def test_a_consul_restored_from_an_empty_backup_loses_nobody(consul: Standin) -> None:
    with fleet(consul.settings(), 1, 2) as agents:
        consul.wipe()
        wait_for(lambda: len(consul.keys) == 2, "both are registered again")
        for agent in agents:
            agent.registered()
            assert agent.never_lost(1, 2)


@pytest.mark.parametrize("how", ["no leader", "hangs"])
def test_a_consul_in_trouble_loses_nobody(consul: Standin, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEADLINE", 0.5)
    with fleet(consul.settings(), 1, 2) as agents:
        if how == "hangs":
            consul.stalled.set()
        else:
            consul.broken = 500
        for agent in agents:
            wait_for(lambda a=agent: not a.state.connected, "it is noticed")
            assert set(agent.roll.claims) == {"h1", "h2"}
        consul.broken = 0
        consul.stalled.clear()
        for agent in agents:
            agent.registered()
            agent.knows(1, 2)
            assert agent.never_lost(1, 2)


def test_records_that_are_none_are_skipped_and_named(consul: Standin) -> None:
    consul.write(f"{PREFIX}h5", b"{")
    consul.write(f"{PREFIX}h6", entry(member(7)).value)
    consul.write(f"{PREFIX}h8", b"")
    with fleet(consul.settings(), 1) as (first,):
        assert set(first.roll.skipped) == {f"{PREFIX}h{number}" for number in (5, 6, 8)}


def test_without_the_token_nobody_gets_in(tmp_path: Path) -> None:
    consul = Standin(token="geheim").start()
    good, wrong = tmp_path / "good", tmp_path / "wrong"
    good.write_text("geheim\n")
    wrong.write_text("other\n")
    agent = Agent(1, consul.settings(secret_file=good)).start()
    agent.registered()
    agent.end()
    for settings in (consul.settings(), consul.settings(secret_file=wrong)):
        with pytest.raises(WardmeshError) as caught:
            client.Consul(settings, settings.servers[0]).get("x")
        assert "403" in caught.value.why
        assert "other" not in str(caught.value)
    consul.end()


def test_tls_is_checked_by_the_ca_and_the_name(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "tls"), Authority(tmp_path / "stranger")
    consul = Standin().secure(*authority.issue("consul")).start()
    agent = Agent(1, consul.settings(ca=authority.ca, server_name="localhost")).start()
    agent.registered()
    agent.end()
    for settings in (
        consul.settings(ca=stranger.ca),
        consul.settings(),
        consul.settings(ca=authority.ca, server_name="elsewhere"),
    ):
        with pytest.raises(WardmeshError):
            client.Consul(settings, settings.servers[0]).get("x")
    consul.end()


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b'[{"Key": "k"}]', b'[{"Key":"k","Value":"%","CreateIndex":1}]']
)
def test_an_answer_that_is_none_of_consuls_is_an_error_of_ours(consul: Standin, data: bytes) -> None:
    settings = consul.settings()
    with pytest.raises(WardmeshError):
        client.Consul(settings, settings.servers[0])._entries(200, data)
