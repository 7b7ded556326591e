# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent to a listener: an answer or nothing, no fault, and the next one is answered as ever."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tests.budget import fuzz
from tests.unit.agent.observe.support import Client, event, flow, flow_filter, request, served
from tests.unit.agent.observe.ui_page import LivePage, live_page

from wardmesh.api import client as api_client
from wardmesh.api.server import Server
from wardmesh.health.icmp import parse_reply
from wardmesh.health.web import REQUEST_MAX, answer, judge
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.getflows import Query
from wardmesh.observe.proto import message
from wardmesh.observe.ring import Ring

# What HTTP gives a meaning to; joined, some of it is a request.
PIECES = st.sampled_from(
    [
        *(b"GET", b"POST", b"HEAD", b"PUT", b" ", b"/", b"/hello", b"/v1/status", b"/api/v1/updates?label="),
        *(
            b" HTTP/1.1",
            b" HTTP/1.0",
            b" HTTP/9",
            b"\r\n",
            b"\n",
            b"\r\n\r\n",
            b":",
            b"%00",
            b"%ff",
            b"\x00",
            b"\xff",
        ),
        *(
            b"Host: localhost",
            b"Host: x",
            b"Content-Length: ",
            b"0",
            b"-1",
            b"9" * 30,
            b"\xb2",
            b"{",
            b"[" * 3000,
        ),
        *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: keep-alive", b"x" * 9000),
    ]
) | st.binary(max_size=20)
REQUESTS = st.lists(PIECES, max_size=12).map(b"".join)
TEXTS = st.sampled_from(
    [
        "",
        "a",
        "*",
        "a/b",
        "a/*",
        "10.0.0.1",
        "10.0.0.0/8",
        "::/0",
        "tcp",
        "80",
        "-1",
        "(",
        "[a",
        "a in (b",
        "4+",
    ]
) | st.text(max_size=8)


def sent(where: Any, data: bytes) -> bytes:
    """What comes back until the other side closes, when we have no more to say."""
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    with socket.socket(family) as link:
        link.settimeout(20)
        link.connect(where)
        found = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            link.sendall(data)
            with contextlib.suppress(OSError):  # it was closed already
                link.shutdown(socket.SHUT_WR)
            while part := link.recv(65536):
                found += part
        return found


@pytest.fixture(scope="module")
def page() -> Iterator[LivePage]:
    with live_page() as made:
        yield made


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("api") / "api.sock"
    server = Server(path, {("GET", "/v1/status"): lambda _body: {"ok": True}, ("POST", "/v1/status"): dict})
    yield path
    server.close()


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[grpc.Channel, Client]]:
    with served(tmp_path_factory.mktemp("observer")) as (server, made):
        server.add(*(event(number) for number in range(5)))
        with grpc.insecure_channel(server.target) as channel:
            yield channel, made


@fuzz(60)
@given(data=REQUESTS)
def test_any_bytes_to_the_api_socket(api: Path, data: bytes) -> None:
    found = sent(str(api), data)
    assert b'"what": "unexpected error"' not in found, found
    assert api_client.call(api, "GET", "/v1/status") == {"ok": True}


@fuzz(60)
@given(data=REQUESTS)
def test_any_bytes_to_the_page(page: LivePage, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    found = sent(("127.0.0.1", page.port), data)
    assert not found or found.startswith((b"HTTP/1.", b'{"error"')), found  # the latter to HTTP/0.9
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert page.status()["flows"] is not None


@fuzz(300)
@given(data=REQUESTS)
def test_any_bytes_to_the_health_port(data: bytes) -> None:
    found = answer(data)
    if found is None:
        assert len(data) <= REQUEST_MAX
    else:
        assert found.startswith(b"HTTP/1.1 ") and found.endswith(b"\r\n\r\n") and len(found) < 120
    judge(data)


@fuzz(200)
@given(version=st.sampled_from([4, 6]), data=st.binary(max_size=80), raw=st.booleans())
def test_any_packet_is_an_answer_only_with_our_token(version: int, data: bytes, raw: bool) -> None:
    assert parse_reply(version, data, b"token-of-ours-16", raw=raw) is None


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        **{
            field.name: st.lists(TEXTS, max_size=2)
            for field in message("flow.FlowFilter").DESCRIPTOR.fields
            if field.type == field.TYPE_STRING
        },
        "verdict": st.lists(st.integers(0, 12), max_size=2),
        "reply": st.lists(st.booleans(), max_size=2),
        "source_identity": st.lists(st.integers(0, 1 << 31), max_size=2),
    },
)
STAMPS = st.builds(
    lambda seconds, nanos: message("google.protobuf.Timestamp")(seconds=seconds, nanos=nanos),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-(1 << 31), (1 << 31) - 1),
)
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "number": st.integers(0, (1 << 64) - 1),
        "first": st.booleans(),
        "since": STAMPS,
        "until": STAMPS,
        "whitelist": st.lists(FILTERS.map(lambda fields: flow_filter(**fields)), max_size=2),
        "blacklist": st.lists(FILTERS.map(lambda fields: flow_filter(**fields)), max_size=2),
    },
)
RING = Ring(15)
RING.add([flow(number) for number in range(5)])


def ask(asked: Any) -> None:
    """As the server does it; WardmeshError is INVALID_ARGUMENT there."""
    try:
        query = Query(asked)
    except WardmeshError as error:
        assert error.what
        return
    entries, _cursor = RING.take(query.start(RING))
    assert len([entry for entry in entries if query.wants(entry)]) <= 5


@fuzz(150)
@given(ASKED.map(lambda fields: request(**fields)))
def test_any_request_for_flows_is_answered_or_refused(asked: Any) -> None:
    ask(asked)


@fuzz(120)
@given(
    ASKED.map(lambda fields: request(**fields).SerializeToString()), st.integers(0, 60), st.binary(max_size=6)
)
def test_any_damaged_request_for_flows_is_answered_or_refused(data: bytes, start: int, put: bytes) -> None:
    try:
        asked = message("observer.GetFlowsRequest").FromString(data[:start] + put + data[start + len(put) :])
    except DecodeError:
        return
    ask(asked)


@fuzz(60)
@given(data=st.binary(max_size=60))
def test_any_bytes_to_the_hubble_socket(observer: tuple[grpc.Channel, Client], data: bytes) -> None:
    channel, client = observer
    for method in (
        "observer.Observer/GetFlows",
        "observer.Observer/ServerStatus",
        "grpc.health.v1.Health/Check",
    ):
        try:
            list(channel.unary_stream(f"/{method}")(data, timeout=1))
        except grpc.RpcError as error:
            # UNKNOWN is how gRPC calls an exception of the server's own code; its own reader says so, too.
            assert error.code() is not grpc.StatusCode.UNKNOWN or "deserializ" in (error.details() or ""), (
                error
            )
    assert len(list(client.GetFlows(request(number=3)))) == 3
