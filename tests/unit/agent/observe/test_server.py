# SPDX-License-Identifier: Apache-2.0
"""The Hubble API over a real socket: how requests are answered, and what clients cannot do."""

from __future__ import annotations

import stat
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.agent.observe.support import TIME, Client, Collector, event, flow_filter, request, served
from tests.waiting import eventually

from wardmesh.observe.convert import set_time
from wardmesh.observe.flow import Lost, LostSource
from wardmesh.observe.getflows import ALL
from wardmesh.observe.proto import message
from wardmesh.observe.roster import peers_of


def ports(answers: Any) -> list[int]:
    """The source ports of flows, which number them."""
    return [answer.flow.l4.TCP.source_port - 40000 for answer in answers if answer.HasField("flow")]


def stamp(number: int) -> Any:
    made = message("google.protobuf.Timestamp")()
    set_time(made, TIME + number * 1_000_000)
    return made


SELECTIONS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("the last so many", {"number": 3}, [97, 98, 99]),
    ("number 0 is all", {}, list(range(100))),
    ("--all", {"number": ALL}, list(range(100))),
    ("more than there are", {"number": 1000}, list(range(100))),
    ("the first so many", {"number": 3, "first": True}, [0, 1, 2]),
    ("since", {"since": stamp(97)}, [97, 98, 99]),
    ("until", {"until": stamp(2)}, [0, 1, 2]),
    ("since and until", {"since": stamp(5), "until": stamp(7)}, [5, 6, 7]),
    ("the last of a time", {"since": stamp(5), "until": stamp(50), "number": 2}, [49, 50]),
    ("the first of a time", {"since": stamp(5), "number": 2, "first": True}, [5, 6]),
    ("later than everything", {"since": stamp(1000)}, []),
    (
        "the last that the filter keeps",
        {"number": 2, "whitelist": [flow_filter(source_port=["40007", "40009", "40050"])]},
        [9, 50],
    ),
    (
        "without those on the blacklist",
        {"first": True, "number": 2, "blacklist": [flow_filter(source_port=["40000"])]},
        [1, 2],
    ),
]


@pytest.mark.parametrize(
    ("fields", "expected"), [row[1:] for row in SELECTIONS], ids=[row[0] for row in SELECTIONS]
)
def test_a_request_selects(tmp_path: Path, fields: dict[str, Any], expected: list[int]) -> None:
    with served(tmp_path) as (server, client):
        server.add(*(event(number) for number in range(100)))
        assert ports(client.GetFlows(request(**fields))) == expected


def test_the_ring_keeps_the_newest(tmp_path: Path) -> None:
    with served(tmp_path, capacity=15) as (server, client):
        server.add(*(event(number) for number in range(100)))
        assert ports(client.GetFlows(request(first=True, number=2))) == [85, 86]
        assert ports(client.GetFlows(request())) == list(range(85, 100))


def test_following_begins_with_what_comes(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        server.add(event(0))
        reader = Collector(client.GetFlows(request(follow=True)))
        assert eventually(lambda: bool(dict(reader.stream.initial_metadata())))
        number = 1
        while not reader.got and number < 200:  # the stream stands before it has taken its place
            server.add(event(number))
            number += 1
            eventually(lambda: bool(reader.got), 0.2)
        server.add(event(500))
        assert eventually(lambda: 500 in ports(reader.got))
        assert 0 not in ports(reader.stop())


def test_following_with_a_number_begins_with_the_last(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        server.add(*(event(number) for number in range(10)))
        reader = Collector(client.GetFlows(request(follow=True, number=2)))
        assert eventually(lambda: ports(reader.got) == [8, 9])
        server.add(event(10))
        assert eventually(lambda: ports(reader.got) == [8, 9, 10])
        reader.stop()


def test_an_answer_says_who_talks_to_whom(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        server.add(event(0))
        (answer,) = client.GetFlows(request())
    got = answer.flow
    assert (got.source.pod_name, got.source.namespace, got.source.cluster_name) == ("web1", "", "lab")
    assert got.destination.pod_name == "db1"
    assert "vm:app=web" in got.source.labels
    assert list(got.source.labels) == sorted(got.source.labels)
    assert answer.node_name == got.node_name == "lab/db1"
    assert (got.IP.source, got.IP.destination, got.IP.encrypted) == ("10.0.0.1", "10.0.0.11", True)
    assert got.l4.TCP.destination_port == 5432 and got.l4.TCP.flags.SYN
    assert got.event_type.type == 5 and got.traffic_direction == 1 and got.Type == 1
    assert got.HasField("is_reply") and not got.is_reply.value
    assert got.Summary == "TCP Flags: SYN"
    assert answer.time.ToNanoseconds() == got.time.ToNanoseconds() == TIME
    assert len(got.uuid) == 36


def test_a_field_mask_leaves_what_it_names(tmp_path: Path) -> None:
    mask = message("google.protobuf.FieldMask")(paths=["source.pod_name", "IP", "is_reply"])
    with served(tmp_path) as (server, client):
        server.add(event(0))
        (answer,) = client.GetFlows(request(field_mask=mask))
    assert {name.name for name, _value in answer.flow.ListFields()} == {"source", "IP", "is_reply"}
    assert [name.name for name, _value in answer.flow.source.ListFields()] == ["pod_name"]
    assert answer.node_name == "lab/db1" and answer.time.seconds


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("first and follow", {"first": True, "follow": True}),
    ("a CIDR", {"whitelist": [flow_filter(source_ip=["10.0.0.0/99"])]}),
    ("an address", {"blacklist": [flow_filter(destination_ip=["web1"])]}),
    ("a label selector", {"whitelist": [flow_filter(source_label=["app in (a"])]}),
    ("a regular expression", {"whitelist": [flow_filter(http_path=["("])]}),
    ("a port", {"whitelist": [flow_filter(destination_port=["http"])]}),
    ("a protocol", {"whitelist": [flow_filter(protocol=["carrier-pigeon"])]}),
    ("a node pattern", {"whitelist": [flow_filter(node_name=["a/b/c"])]}),
    ("a mask", {"field_mask": message("google.protobuf.FieldMask")(paths=["source.nose"])}),
    (
        "a mask into a list",
        {"field_mask": message("google.protobuf.FieldMask")(paths=["egress_allowed_by.name"])},
    ),
    ("too many filters", {"whitelist": [flow_filter()] * 1000}),
    (
        "CEL",
        {
            "whitelist": [
                flow_filter(experimental=message("flow.FlowFilter.Experimental")(cel_expression=["true"]))
            ]
        },
    ),
]


@pytest.mark.parametrize("fields", [row[1] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_request_is_told_so(tmp_path: Path, fields: dict[str, Any]) -> None:
    with served(tmp_path) as (server, client):
        server.add(event(0))
        with pytest.raises(grpc.RpcError) as caught:
            list(client.GetFlows(request(**fields)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details()


def test_bytes_that_are_no_request_harm_nobody(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        server.add(event(0))
        with grpc.insecure_channel(server.target) as channel:
            raw = channel.unary_stream("/observer.Observer/GetFlows")
            for data in (b"\xff" * 100, b"\x2a\x7f", b"\x08"):
                with pytest.raises(grpc.RpcError):
                    list(raw(data))
            with pytest.raises(grpc.RpcError) as caught:
                list(raw(b"\x00" * (2 << 20)))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ports(client.GetFlows(request())) == [0]


def test_status_nodes_and_namespaces(tmp_path: Path) -> None:
    with served(tmp_path, capacity=15) as (server, client):
        server.add(*(event(number) for number in range(20)))
        status = client.ServerStatus(message("observer.ServerStatusRequest")())
        assert (status.num_flows, status.max_flows, status.seen_flows) == (15, 15, 20)
        assert status.uptime_ns > 0 and status.flows_rate > 0 and status.version.startswith("wardmesh ")
        (node,) = client.GetNodes(message("observer.GetNodesRequest")()).nodes
        assert (node.name, node.state, node.address) == ("lab/db1", 1, "10.0.0.11:4244")
        assert not client.GetNamespaces(message("observer.GetNamespacesRequest")()).namespaces
        for method, name in (("GetAgentEvents", "Agent"), ("GetDebugEvents", "Debug")):
            with pytest.raises(grpc.RpcError) as caught:
                list(getattr(client, method)(message(f"observer.Get{name}EventsRequest")()))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_is_what_clients_ask_first(tmp_path: Path) -> None:
    ask = message("grpc.health.v1.HealthCheckRequest")
    with served(tmp_path) as (server, _client), grpc.insecure_channel(server.target) as channel:
        health = Client(channel, "grpc.health.v1.Health")
        for name in ("", "hubble.server.Observer"):
            answer, call = health.Check.with_call(ask(service=name))
            assert answer.status == 1
            assert dict(call.initial_metadata())["hubble-server-version"]
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(ask(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(ask(service=""))
        assert next(watch).status == 1
        watch.cancel()


def test_peers_come_and_go(tmp_path: Path) -> None:
    with served(tmp_path) as (server, _client), grpc.insecure_channel(server.target) as channel:
        reader = Collector(Client(channel, "peer.Peer").Notify(message("peer.NotifyRequest")()))
        assert eventually(lambda: len(reader.got) == 4)
        assert [item.type for item in reader.got] == [1, 1, 1, 1]
        assert {item.name: item.address for item in reader.got}["lab/web1"] == "10.0.0.1:4244"
        left = peers_of(server.namer.names.fleet, 4244)
        del left["lab/web1"]
        server.roster.replace(left)
        assert eventually(lambda: len(reader.got) == 5)
        assert (reader.got[-1].name, reader.got[-1].type) == ("lab/web1", 2)
        server.roster.replace(peers_of(server.namer.names.fleet, 9999))
        assert eventually(lambda: len(reader.got) == 9)
        assert sorted(item.type for item in reader.got[5:]) == [1, 3, 3, 3]
        reader.stop()


def test_reflection_lists_what_is_served(tmp_path: Path) -> None:
    name = "grpc.reflection.v1alpha.ServerReflection"
    ask = message("grpc.reflection.v1alpha.ServerReflectionRequest")
    with served(tmp_path) as (server, _client), grpc.insecure_channel(server.target) as channel:
        asked = [
            ask(list_services=""),
            ask(file_containing_symbol="observer.Observer"),
            ask(file_by_filename="x"),
        ]
        listed, file, unknown = Client(channel, name).ServerReflectionInfo(iter(asked))
    assert {item.name for item in listed.list_services_response.service} == {
        "observer.Observer",
        "peer.Peer",
        "grpc.health.v1.Health",
        name,
    }
    assert any(b"GetFlows" in data for data in file.file_descriptor_response.file_descriptor_proto)
    assert unknown.error_response.error_code == 5


def test_lost_events_are_told(tmp_path: Path) -> None:
    with served(tmp_path) as (server, client):
        server.ring.add([Lost(LostSource.KERNEL, 7, TIME, TIME)])
        server.add(event(1))
        lost, seen = client.GetFlows(request(whitelist=[flow_filter(verdict=[1])]))
    assert (lost.lost_events.source, lost.lost_events.num_events_lost) == (1, 7)
    assert seen.HasField("flow")


def test_the_socket_is_for_its_group_alone(tmp_path: Path) -> None:
    with served(tmp_path) as (server, _client):
        assert stat.S_IMODE(server.socket.stat().st_mode) in (0o600, 0o660)


def test_a_client_that_never_reads_costs_nobody_anything(tmp_path: Path) -> None:
    with served(tmp_path, capacity=1023) as (server, client):
        asleep = client.GetFlows(request(follow=True, number=ALL))
        assert dict(asleep.initial_metadata())
        for number in range(60):
            server.add(*(event(number * 1000 + step) for step in range(1000)))
        reader = Collector(client.GetFlows(request(number=5)))
        assert eventually(lambda: len(ports(reader.got)) == 5), "another client is answered all the same"
        assert len(server.ring) == 1023
        late = Collector(asleep)
        assert eventually(lambda: _missed(late.got) + len(ports(late.got)) == 60000)
        assert _missed(late.got) > 0, "what is sent ahead is bounded by the flow control of one stream"
        late.stop()


def _missed(answers: Any) -> int:
    return sum(answer.lost_events.num_events_lost for answer in answers)


def test_streams_beyond_the_limit_are_refused_and_short_questions_are_not(tmp_path: Path) -> None:
    with served(tmp_path, streams=8) as (server, client):
        server.add(event(0))
        readers = [Collector(client.GetFlows(request(follow=True, number=1))) for _ in range(30)]
        assert eventually(lambda: sum(reader.error is not None for reader in readers) == 22)
        codes = {reader.error.code() for reader in readers if reader.error is not None}
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert client.ServerStatus(message("observer.ServerStatusRequest")()).seen_flows == 1
        for reader in readers:
            reader.stop()
        assert eventually(lambda: _answered(client)), "streams that ended give their place back"


def _answered(client: Client) -> bool:
    try:
        return ports(client.GetFlows(request(number=1))) == [0]
    except grpc.RpcError:
        return False


def test_a_thousand_quick_clients(tmp_path: Path) -> None:
    with served(tmp_path) as (server, _client):
        server.add(*(event(number) for number in range(20)))
        before = threading.active_count()
        for _turn in range(1000):
            with grpc.insecure_channel(server.target) as channel:
                assert len(ports(Client(channel).GetFlows(request(number=3)))) == 3
        assert threading.active_count() <= before + 200


def test_some_hundred_clients_at_once(tmp_path: Path) -> None:
    with served(tmp_path) as (server, _client):
        server.add(*(event(number) for number in range(20)))

        def ask(_number: int) -> int:
            with grpc.insecure_channel(server.target) as channel:
                client = Client(channel)
                eventually(lambda: _last_three(client))
                return len(ports(client.GetFlows(request(number=3), wait_for_ready=True)))

        with futures.ThreadPoolExecutor(100) as pool:
            assert set(pool.map(ask, range(300))) == {3}


def _last_three(client: Client) -> bool:
    try:
        return len(ports(client.GetFlows(request(number=3)))) == 3
    except grpc.RpcError:
        return False
