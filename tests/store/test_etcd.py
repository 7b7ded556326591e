# SPDX-License-Identifier: Apache-2.0
"""Agents of a simulated fleet at a real etcd: they converge, and no trouble of the store loses a member."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agents import Agent, fleet
from etcd_server import Etcd
from tests.unit.agent.discovery.samples import CLUSTER, entry, member
from tests.waiting import wait_for

from wardmesh.discovery import etcd as client
from wardmesh.discovery.keys import node_key, nodes_prefix
from wardmesh.discovery.records import read_node
from wardmesh.model.errors import WardmeshError

PREFIX = nodes_prefix(CLUSTER.name)


def test_who_appears_is_known_to_all_and_who_dies_is_gone_after_its_lease(etcd: Etcd) -> None:
    with fleet(etcd.settings(), 1, 2) as agents:
        third = Agent(3, etcd.settings()).start()
        for agent in agents:
            agent.knows(1, 2, 3)
        third.end()  # without a word, as a host that dies
        for agent in agents:
            agent.knows(1, 2)
            assert set(agent.roll.departed) == {"h3"}
    assert etcd.keys() == [] or set(etcd.keys()) <= {node_key("c", "h1"), node_key("c", "h2")}


def test_labels_changed_on_one_host_reach_all(etcd: Etcd) -> None:
    with fleet(etcd.settings(), 1, 2) as (first, second):
        first.labels = {"app": "db"}
        for agent in (first, second):
            wait_for(lambda a=agent: a.roll.claims["h1"].member.labels == {"app": "db"}, "the label arrives")
        assert first.never_lost(1, 2)


def test_what_lies_in_the_store_is_in_the_layout_of_cilium(etcd: Etcd) -> None:
    with fleet(etcd.settings(), 1):
        assert etcd.keys() == ["cilium/state/nodes/v1/c/h1"]
        value = etcd.ctl("get", "cilium/state/nodes/v1/c/h1", "--print-value-only").strip()
        document = json.loads(value)
        assert (document["Name"], document["Cluster"], document["ClusterID"]) == ("h1", "c", 7)
        assert document["WireguardPubKey"] == member(1).key
        assert read_node("cilium/state/nodes/v1/c/h1", value.encode()).name == "h1"


def test_a_deleted_record_comes_back_and_nobody_is_lost(etcd: Etcd) -> None:
    with fleet(etcd.settings(), 1, 2) as agents:
        etcd.ctl("del", "cilium/", "--prefix")
        wait_for(lambda: len(etcd.keys()) == 2, "both are registered again")
        for agent in agents:
            assert agent.never_lost(1, 2)


def test_a_revoked_lease_is_replaced(etcd: Etcd) -> None:
    with fleet(etcd.settings(), 1, 2) as agents:
        for lease in etcd.ctl("lease", "list").split()[3:]:
            etcd.ctl("lease", "revoke", lease)
        wait_for(lambda: len(etcd.keys()) == 2, "both are registered again")
        for agent in agents:
            agent.registered()
            assert agent.never_lost(1, 2)


def test_a_name_that_another_host_has_is_not_taken(etcd: Etcd) -> None:
    with fleet(etcd.settings(), 1) as (first,):
        clone = Agent(1, etcd.settings(), key=member(9).key).start()
        wait_for(lambda: "another host" in clone.state.registration, "the clone says so")
        assert first.roll.claims["h1"].member.key == member(1).key
        first.end()
        clone.registered()  # once the lease of the other is over
        clone.end()


def test_records_that_are_none_are_skipped_and_named(etcd: Etcd) -> None:
    good = entry(member(2)).value.decode()
    bad = {
        "broken": "{",
        "foreign": json.dumps({**json.loads(good), "Name": "foreign", "Cluster": "other"}),
        "h9": good,
        "newer": json.dumps(
            {**json.loads(good), "Name": "newer", "Annotations": {"wardmesh.io/format": "9"}}
        ),
        "huge": json.dumps({**json.loads(good), "Name": "huge", "BootID": "x" * 1_000_000}),
        "h1/below": good,
    }
    for name, value in bad.items():
        etcd.ctl("put", PREFIX + name, text=value)
    with fleet(etcd.settings(), 1) as (first,):
        assert set(first.roll.skipped) == {PREFIX + name for name in bad}
        assert set(first.roll.claims) == {"h1"}
        document = first.state.document(first.roll)
        assert (document["skipped"], len(document["skippedRecords"])) == (len(bad), len(bad))
        etcd.ctl("put", PREFIX + "h1", text="garbage")
        wait_for(
            lambda: first.follower._written and "garbage" not in etcd.ctl("get", PREFIX + "h1"), "put right"
        )
        assert first.never_lost(1)


def test_many_huge_records_do_not_keep_the_good_ones_away(etcd: Etcd) -> None:
    for number in range(24):
        etcd.ctl("put", f"{PREFIX}huge{number:02}", text="x" * 1_000_000)
    with fleet(etcd.settings(), 1) as (first,):
        assert len(first.roll.skipped) == 24


def test_more_records_than_a_page_come_whole_and_changes_in_between_are_not_missed(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 7)
    settings = etcd.settings()
    writer = client.Etcd(settings, settings.servers[0])
    for number in range(10, 60):
        writer.put(node_key("c", f"h{number}"), entry(member(number)).value)
    with fleet(etcd.settings(), 1, strangers=True) as (first,):
        first.knows(1, *range(10, 60))
        writer.put(node_key("c", "h60"), entry(member(60)).value)
        first.knows(1, *range(10, 61))
    writer.close()


# --- the store in trouble ---


def test_a_store_that_is_down_and_comes_back_loses_nobody(etcd: Etcd) -> None:
    with fleet(etcd.settings(), 1, 2) as agents:
        etcd.end()
        for agent in agents:
            wait_for(lambda a=agent: not a.state.connected, "it is noticed")
            assert set(agent.roll.claims) == {"h1", "h2"}
        etcd.start()
        for agent in agents:
            agent.registered()
        third = Agent(3, etcd.settings()).start()
        for agent in agents:
            agent.knows(1, 2, 3)
            assert agent.never_lost(1, 2)
        third.end()


def test_a_store_that_hangs_is_noticed_and_loses_nobody(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEADLINE", 1.0)
    with fleet(etcd.settings(), 1, 2) as agents:
        etcd.members[0].pause()
        for agent in agents:
            wait_for(lambda a=agent: not a.state.connected, "it is noticed")
        etcd.members[0].resume()
        for agent in agents:
            agent.registered()
            agent.knows(1, 2)
            assert agent.never_lost(1, 2)


def test_the_other_servers_take_over(three: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEADLINE", 1.0)
    with fleet(three.settings(), 1, 2) as agents:
        for victim in three.members[:2]:
            victim.end()
            three.ready()
            wait_for(
                lambda v=victim: all(
                    a.state.connected and not a.state.server.endswith(f":{v.client}") for a in agents
                ),
                "all are at another server",
            )
            agents[0].labels = {"step": victim.name}
            for agent in agents:
                wait_for(
                    lambda a=agent, v=victim: a.roll.claims["h1"].member.labels == {"step": v.name},
                    "changes still arrive",
                )
            three.run(victim)
            three.ready()
        for agent in agents:
            assert agent.never_lost(1, 2)


def test_a_server_cut_off_from_its_majority_is_left(three: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEADLINE", 1.0)
    with fleet(three.settings(), 1, 2) as agents:
        for member_ in three.members[:2]:
            member_.pause()
        for agent in agents:
            wait_for(lambda a=agent: not a.state.connected, "nobody serves")
            assert set(agent.roll.claims) == {"h1", "h2"}
        for member_ in three.members[:2]:
            member_.resume()
        for agent in agents:
            agent.registered()
            assert agent.never_lost(1, 2)


def test_a_history_that_is_compacted_loses_nobody(etcd: Etcd) -> None:
    settings = etcd.settings()
    connection = client.Etcd(settings, settings.servers[0])
    connection.put(node_key("c", "h7"), entry(member(7)).value)
    for number in range(20):
        etcd.ctl("put", "other", text=str(number))
    etcd.ctl("compact", str(etcd.revision()))
    with pytest.raises(WardmeshError) as caught:
        connection._follow(PREFIX, 1)
        connection.changes(10.0)
    assert "compacted" in caught.value.why
    connection.close()
    with fleet(etcd.settings(), 1, strangers=True) as (first,):
        first.knows(1, 7)
        etcd.ctl("compact", str(etcd.revision()))
        third = Agent(3, etcd.settings()).start()
        wait_for(lambda: "h3" in first.roll.claims, "changes arrive after a compaction")
        third.end()


def test_a_store_restored_from_a_backup_loses_nobody(etcd: Etcd, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    etcd.ctl("put", "before", text="anybody")
    etcd.ctl("snapshot", "save", str(backup))
    with fleet(etcd.settings(), 1, 2) as agents:
        etcd.restore(backup)
        wait_for(lambda: len(etcd.keys()) == 2, "both are registered again")
        for agent in agents:
            agent.registered()
            assert agent.never_lost(1, 2)


def test_a_full_store_is_read_and_said_to_be_full(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path, extra=("--quota-backend-bytes", str(2 << 20))).start()
    try:
        with fleet(etcd.settings(lease=600.0), 1, 2) as (first, second):
            while etcd._ctl("put", "filler", text="x" * 900_000).returncode == 0:
                pass
            first.labels = {"app": "late"}
            wait_for(lambda: "RESOURCE_EXHAUSTED" in first.state.registration, "it says so")
            assert first.state.connected
            third = Agent(3, etcd.settings()).start()
            third.knows(1, 2)
            assert not third.state.registered
            etcd.ctl("compact", str(etcd.revision()))
            etcd.ctl("defrag")
            etcd.ctl("alarm", "disarm")
            third.registered()
            wait_for(lambda: second.roll.claims["h1"].member.labels == {"app": "late"}, "the label arrives")
            third.end()
            assert first.never_lost(1, 2)
    finally:
        etcd.end()


def test_another_cluster_behind_the_same_address_is_noticed(etcd: Etcd) -> None:
    settings = etcd.settings()
    connection = client.Etcd(settings, settings.servers[0])
    connection.get("x")
    connection.cluster += 1
    with pytest.raises(WardmeshError) as caught:
        connection.get("x")
    assert "another etcd cluster" in caught.value.why
    connection.close()


# --- who may do what ---


def grant(etcd: Etcd, name: str) -> None:
    etcd.user(name, ("read", PREFIX, True), ("readwrite", node_key("c", name), False))


def test_a_host_writes_its_own_record_and_no_other(secured: Etcd) -> None:
    for name in ("h1", "h2"):
        grant(secured, name)
    settings = {name: secured.settings(name) for name in ("h1", "h2")}
    first, second = Agent(1, settings["h1"]).start(), Agent(2, settings["h2"]).start()
    first.knows(1, 2)
    second.knows(1, 2)
    connection = client.Etcd(settings["h1"], settings["h1"].servers[0])
    for key in (node_key("c", "h2"), node_key("c", "h3"), "cilium/.heartbeat", "anything"):
        with pytest.raises(WardmeshError) as caught:
            connection.put(key, b"x")
        assert "PERMISSION_DENIED" in caught.value.why
    connection.close()
    assert first.never_lost(1, 2)
    first.end()
    second.end()


def test_without_a_certificate_of_the_ca_nobody_gets_in(secured: Etcd, tmp_path: Path) -> None:
    from tests.certificates import Authority

    other = Authority(tmp_path / "other")
    cert, key = other.issue("h1")
    good = secured.settings("root")
    for settings in (
        secured.settings("root", cert=cert, key=key),
        secured.settings("root", ca=other.ca),
        secured.settings("root", cert=None, key=None),
    ):
        with pytest.raises(WardmeshError):
            connection = client.Etcd(settings, good.servers[0])
            connection.get("x")


def test_a_user_with_a_password_gets_in_and_a_wrong_one_does_not(etcd: Etcd, tmp_path: Path) -> None:
    etcd.ctl("user", "add", "root:geheim")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("role", "add", "h1")
    etcd.ctl("role", "grant-permission", "--prefix=true", "h1", "read", PREFIX)
    etcd.ctl("role", "grant-permission", "h1", "readwrite", node_key("c", "h1"))
    etcd.ctl("user", "add", "h1:right")
    etcd.ctl("user", "grant-role", "h1", "h1")
    etcd.ctl("auth", "enable")
    good, wrong = tmp_path / "good", tmp_path / "wrong"
    good.write_text("right\n")
    wrong.write_text("left\n")
    agent = Agent(1, etcd.settings(username="h1", secret_file=good)).start()
    agent.registered()
    agent.end()
    settings = etcd.settings(username="h1", secret_file=wrong)
    with pytest.raises(WardmeshError) as caught:
        client.Etcd(settings, settings.servers[0])
    assert "left" not in str(caught.value)


def test_an_unreadable_certificate_is_named(secured: Etcd, tmp_path: Path) -> None:
    settings = secured.settings("root", ca=tmp_path / "nowhere")
    with pytest.raises(WardmeshError) as caught:
        client.Etcd(settings, settings.servers[0])
    assert caught.value.where == str(tmp_path / "nowhere")


def test_stopping_is_quick_even_while_nobody_answers(etcd: Etcd) -> None:
    agent = Agent(1, etcd.settings()).start()
    agent.registered()
    etcd.end()
    agent.end()
    assert not agent._thread.is_alive()
