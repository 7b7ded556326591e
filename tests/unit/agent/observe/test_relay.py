# SPDX-License-Identifier: Apache-2.0
"""The relay before real servers: one order of time, members that are away, come, go and come back."""

from __future__ import annotations

import socket
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.agent.observe.relays import relaying
from tests.unit.agent.observe.support import Client, Collector, Served, event, flow_filter, request
from tests.waiting import eventually

from wardmesh.observe.client import Access, open_channel
from wardmesh.observe.proto import message

MEMBERS = ("db1", "web1", "web2")


def numbers(answers: Any) -> list[int]:
    return [a.flow.l4.TCP.source_port - 40000 for a in answers if a.HasField("flow")]


def states(answers: Any, state: int) -> set[str]:
    return {
        name
        for answer in answers
        if answer.HasField("node_status") and answer.node_status.state_change == state
        for name in answer.node_status.node_names
    }


def fill(members: dict[str, Served], count: int = 30) -> None:
    """Flow n on member n % 3."""
    for place, member in enumerate(members.values()):
        member.add(*(event(n, node=member.namer.names.own) for n in range(place, count, len(members))))


def test_flows_of_all_members_come_in_one_order(tmp_path: Path) -> None:
    with relaying(tmp_path, *MEMBERS) as (_relay, client, members):
        fill(members)
        got = list(client.GetFlows(request()))
        assert numbers(got) == list(range(30))
        assert {a.node_name for a in got if a.HasField("flow")} == {"lab/db1", "lab/web1", "lab/web2"}
        assert states(got, 1) == {"lab/db1", "lab/web1", "lab/web2"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"number": 5}, [25, 26, 27, 28, 29]),
        ({"number": 5, "first": True}, [0, 1, 2, 3, 4]),
        ({"whitelist": [flow_filter(node_name=["lab/web2"])], "number": 2}, [26, 29]),
        ({"number": 2**64 - 1}, list(range(30))),
    ],
)
def test_a_number_counts_for_the_whole_fleet(
    tmp_path: Path, fields: dict[str, Any], expected: list[int]
) -> None:
    with relaying(tmp_path, *MEMBERS) as (_relay, client, members):
        fill(members)
        assert numbers(client.GetFlows(request(**fields))) == expected


def test_who_cannot_be_reached_is_told_and_waits_for_nobody(tmp_path: Path) -> None:
    with relaying(tmp_path, "db1", "web1") as (relay, client, members):
        fill(members)
        relay.peers("db1", "web1", "gone")
        got = list(client.GetFlows(request()))
        assert numbers(got) == list(range(30))
        assert states(got, 2) == {"lab/gone"}
        status = client.ServerStatus(message("observer.ServerStatusRequest")())
        assert (status.num_connected_nodes.value, status.num_unavailable_nodes.value) == (2, 1)
        assert list(status.unavailable_nodes) == ["lab/gone"]
        assert (status.num_flows, status.seen_flows, status.max_flows) == (30, 30, 510)
        nodes = client.GetNodes(message("observer.GetNodesRequest")()).nodes
        assert {node.name: node.state for node in nodes} == {"lab/db1": 1, "lab/web1": 1, "lab/gone": 2}


def test_following_sorts_what_comes_together(tmp_path: Path) -> None:
    with relaying(tmp_path, *MEMBERS) as (_relay, client, members):
        reader = Collector(client.GetFlows(request(follow=True)))
        assert eventually(lambda: len(states(reader.got, 1)) == 3)
        _until_seen(members, reader)
        for number in range(1000, 1030):
            list(members.values())[number % 3].add(event(number))
        assert eventually(lambda: len([n for n in numbers(reader.got) if n >= 1000]) == 30)
        got = [n for n in numbers(reader.stop()) if n >= 1000]
        assert got == sorted(got)


def _until_seen(members: dict[str, Served], reader: Collector) -> None:
    """A stream that stands may not have its place in the ring yet: add until each member's flow is seen."""
    for place, member in enumerate(members.values()):
        for number in range(place, 900, len(members)):
            member.add(event(number))
            if eventually(lambda n=number: n in numbers(reader.got), 1.5):
                break


def test_a_member_that_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    with relaying(tmp_path, "db1", "web1") as (_relay, client, members):
        members["db1"].add(event(0))
        members["web1"].add(event(1))
        reader = Collector(client.GetFlows(request(follow=True, number=10)))
        assert eventually(lambda: sorted(numbers(reader.got)) == [0, 1])
        members["web1"].close()
        assert eventually(lambda: "lab/web1" in states(reader.got, 2))
        members["db1"].add(event(2))
        assert eventually(lambda: 2 in numbers(reader.got)), "the others go on"
        members["web1"] = Served(tmp_path, own="web1")
        members["web1"].add(event(1), event(3))
        assert eventually(lambda: 3 in numbers(reader.got))
        assert sorted(numbers(reader.stop())) == [0, 1, 2, 3], "what was seen before the break comes once"


def test_members_join_and_leave_while_somebody_follows(tmp_path: Path) -> None:
    with relaying(tmp_path, "db1", "web1") as (relay, client, members):
        relay.peers("db1")
        reader = Collector(client.GetFlows(request(follow=True, number=10)))
        assert eventually(lambda: states(reader.got, 1) == {"lab/db1"})
        relay.peers("db1", "web1")
        assert eventually(lambda: "lab/web1" in states(reader.got, 1))
        _until_seen({"web1": members["web1"]}, reader)
        relay.peers("web1")
        assert eventually(lambda: "lab/db1" in states(reader.got, 3))
        assert reader.error is None
        reader.stop()


def test_errors_are_told_once_and_by_the_relay(tmp_path: Path) -> None:
    with relaying(tmp_path, *MEMBERS) as (_relay, client, _members):
        with pytest.raises(grpc.RpcError) as caught:
            list(client.GetFlows(request(whitelist=[flow_filter(source_ip=["nonsense"])])))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_streams_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    with relaying(tmp_path, "db1", streams=2) as (_relay, client, _members):
        readers = [Collector(client.GetFlows(request(follow=True))) for _ in range(5)]
        assert eventually(lambda: sum(reader.error is not None for reader in readers) == 3)
        assert client.ServerStatus(message("observer.ServerStatusRequest")()).num_connected_nodes.value == 1
        for reader in readers:
            reader.stop()

        def answered() -> bool:
            try:
                return bool(list(client.GetFlows(request())))
            except grpc.RpcError:
                return False

        assert eventually(answered), "streams that ended give their place back"


def test_a_client_that_never_reads_holds_up_only_itself(tmp_path: Path) -> None:
    with relaying(tmp_path, "db1") as (_relay, client, members):
        asleep = client.GetFlows(request(follow=True, number=1))
        assert dict(asleep.initial_metadata())["hubble-relay-version"]
        for start in range(0, 30000, 500):
            members["db1"].add(*(event(number) for number in range(start, start + 500)))
        assert len(numbers(client.GetFlows(request(number=10)))) == 10
        asleep.cancel()


def test_health(tmp_path: Path) -> None:
    with (
        relaying(tmp_path, "db1") as (relay, _client, _members),
        grpc.insecure_channel(relay.target) as channel,
    ):
        health = Client(channel, "grpc.health.v1.Health")
        assert health.Check(message("grpc.health.v1.HealthCheckRequest")(service="")).status == 1


def test_who_was_away_for_long_is_seen_soon_after() -> None:
    """A member that refuses is tried again and again, and the pauses do not grow for ever."""
    tries: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            while len(tries) < 7:
                connection, _peer = listener.accept()
                tries.append(time.monotonic())
                connection.close()

        port = listener.getsockname()[1]
        with open_channel(Access(f"127.0.0.1:{port}")) as channel:
            channel.subscribe(lambda _state: None, try_to_connect=True)
            thread = threading.Thread(target=refuse)
            thread.start()
            thread.join(60)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert len(pauses) == 6 and min(pauses[-2:]) < 4.5, pauses
