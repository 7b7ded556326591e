# SPDX-License-Identifier: Apache-2.0
"""The page's server before clients of every kind: read-only, guarded by headers, bounded."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.agent.observe.support import event, namer
from tests.unit.agent.observe.ui_page import LivePage, live_page
from tests.waiting import eventually

from wardmesh.observe.listen import Gate
from wardmesh.observe.ui import listener as listener_module
from wardmesh.observe.ui.assets import FILES
from wardmesh.observe.ui.model import FlowModel
from wardmesh.observe.ui.pages import HEADERS, LONGEST_TARGET

PATHS = ("/", "/static/app.js", "/static/cytoscape.esm.min.mjs", "/api/v1/status", "/api/v1/updates")


@pytest.fixture(scope="module")
def page() -> Iterator[LivePage]:
    with live_page() as made:
        yield made


def raw(page: LivePage, data: bytes) -> bytes:
    """What the server answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as link:
        link.sendall(data)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := link.recv(65536):
                found += part
        return found


def error_of(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)["error"]
    return found


# --- methods and headers ---


@pytest.mark.parametrize("path", PATHS)
def test_a_head_is_the_answer_without_its_body(page: LivePage, path: str) -> None:
    status, headers, body = page.ask(path)
    assert status == 200 and len(body) == int(headers["content-length"]) > 0
    head_status, head, nothing = page.ask(path, "HEAD")
    assert (head_status, nothing) == (200, b"")
    assert head["content-type"] == headers["content-type"]
    assert head["content-security-policy"] == HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_every_other_method_is_refused(page: LivePage, method: str) -> None:
    for path in ("/", "/api/v1/updates", "/nothing"):
        status, headers, body = page.ask(path, method)
        assert status == 405 and headers["allow"] == "GET, HEAD"
        assert "to be read" in error_of(body)["what"]


def test_a_body_does_not_cut_the_refusal_off(page: LivePage) -> None:
    answer = raw(page, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)
    assert answer.startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/api/v1/nothing", "/api/v1/updates?label=%3C"])
def test_every_answer_has_the_headers(page: LivePage, path: str) -> None:
    _status, headers, _body = page.ask(path)
    for name, value in HEADERS.items():
        assert headers[name.lower()] == value
    assert headers["connection"] == "close"
    assert "access-control-allow-origin" not in headers and "set-cookie" not in headers
    assert headers["cache-control"] == ("no-store" if "api" in path or "nothing" in path else "no-cache")


def test_the_policy_lets_only_the_pages_own_files_run() -> None:
    rules = dict(part.strip().partition(" ")[::2] for part in HEADERS["Content-Security-Policy"].split(";"))
    assert rules["default-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"] and "script-src" not in rules


def test_the_page_has_no_script_and_no_style_of_its_own_and_names_only_its_own_files(page: LivePage) -> None:
    text = page.ask("/")[2].decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text)
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', text)
    assert links and all(page.ask(link)[0] == 200 for link in links)
    for name in FILES:
        if name.endswith(".js"):
            body = page.ask(f"/static/{name}")[2].decode()
            assert "innerHTML" not in body and "http://" not in body and "https://" not in body
            for imported in re.findall(r'from "\./([^"]+)"', body):
                assert imported in FILES


# --- names of the host ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:4246", 200),
        ("LocalHost:1", 200),
        ("127.0.0.1:8246", 200),
        ("[::1]:4246", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.example:4246", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:80:80", 421),
        ("", 421),
    ],
)
def test_a_name_that_was_made_to_point_here_finds_nobody(page: LivePage, host: str, status: int) -> None:
    for path in PATHS:
        assert page.ask(path, headers={"Host": host})[0] == status


def test_no_host_and_two_hosts_are_no_name_of_ours(page: LivePage) -> None:
    for lines in (
        b"",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"Host: localhost\r\nHost: localhost\r\n",
    ):
        assert raw(page, b"GET /api/v1/updates HTTP/1.1\r\n" + lines + b"\r\n").startswith(b"HTTP/1.1 421 ")


# --- malformed requests ---


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/x.y\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET  /  HTTP/1.1  x\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\n\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/updates\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused_and_harm_nobody(page: LivePage, data: bytes) -> None:
    answer = raw(page, data)
    assert not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 5")) or answer.startswith(b"HTTP/1.1 505")
    assert b'"rows"' not in answer
    assert page.ask("/")[0] == 200


def test_nobody_is_asked_for_a_body(page: LivePage) -> None:
    answer = raw(page, b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 417 ")


def test_a_fault_of_the_page_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with live_page() as page:
        page.listener.assets = {"/": None}  # type: ignore[dict-item]
        assert raw(page, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        assert eventually(lambda: "an answer failed" in caplog.text)


def test_an_address_has_a_longest_length(page: LivePage) -> None:
    assert page.ask("/?" + "a" * LONGEST_TARGET)[0] == 414


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/../../../__init__.py",
        "/static/..%2f..%2f__init__.py",
        "/../../etc/passwd",
        "//etc/passwd",
        "/static/index.html",
        "/index.html",
        "/static/app.js/",
        "/api/v1/",
        "/api/v1/../../",
        "/metrics",
        "/%00",
    ],
)
def test_there_are_no_other_paths(page: LivePage, path: str) -> None:
    assert page.ask(path)[0] == 404


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("verdict=nonsense", "verdict"),
        ("label=%3Cscript%3E", "label"),
        ("lable=app", "lable"),
        ("host=a&host=b", "host"),
        ("cursor=abc", "cursor"),
        ("cursor=" + "9" * 40, "cursor"),
        ("members=1.5", "members"),
        ("host=%ff%fe", "read"),
        ("&".join(f"host{n}=1" for n in range(100)), "fields"),
        ("host=" + "x" * 2000, "host"),
    ],
)
def test_wrong_parameters_are_named(page: LivePage, query: str, word: str) -> None:
    status, headers, body = page.ask(f"/api/v1/updates?{query}")
    assert status == 400 and headers["content-type"].startswith("application/json")
    assert word in json.dumps(error_of(body))


def test_a_hostile_parameter_is_answered_as_json_and_never_as_a_page(page: LivePage) -> None:
    _status, headers, body = page.ask("/api/v1/updates?label=%3Cscript%3Ealert(1)%3C/script%3E")
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert "<script>" in error_of(body)["what"]


# --- files ---


def test_files_are_packed_for_who_can_unpack_and_sent_once(page: LivePage) -> None:
    path = "/static/cytoscape.esm.min.mjs"
    _status, headers, plain = page.ask(path)
    _status, packed_headers, packed = page.ask(path, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert packed_headers["content-encoding"] == "gzip" and gzip.decompress(packed) == plain
    assert "content-encoding" not in page.ask(path, headers={"Accept-Encoding": "gzip;q=0"})[1]
    assert page.ask(path, headers={"If-None-Match": headers["etag"]})[0] == 304
    assert page.ask(path, headers={"If-None-Match": '"other"'})[0] == 200


# package/dist/cytoscape.esm.min.mjs of cytoscape 3.34.4 on npm; docs/dependencies.md names the version.
PUBLISHED = "0d7e373a706f0f01d6fb7a6ccf04988c01307cee1c2f9bcc7b068e9f6b431e3f"


def test_the_library_is_the_published_one_and_travels_with_its_licence(page: LivePage) -> None:
    assert hashlib.sha256(page.ask("/static/cytoscape.esm.min.mjs")[2]).hexdigest() == PUBLISHED
    assert b"Cytoscape Consortium" in page.ask("/static/cytoscape.LICENSE.txt")[2]


# --- bounds ---


def test_clients_beyond_the_limit_are_sent_away_and_the_rest_served(
    page: LivePage,
) -> None:
    waiting = [
        socket.create_connection(("127.0.0.1", page.port), 20)
        for _ in range(2 * listener_module.MOST_CLIENTS)
    ]
    try:
        assert eventually(lambda: len(page.listener._open) == listener_module.MOST_CLIENTS)
        assert eventually(
            lambda: len(select.select(waiting, [], [], 0)[0]) == listener_module.MOST_CLIENTS
        ), "so many are closed, and nothing was sent to the others"
    finally:
        for link in waiting:
            link.close()
    assert eventually(lambda: len(page.listener._open) == 0)
    assert page.ask("/")[0] == 200


def test_a_client_that_sends_a_byte_now_and_then_is_cut() -> None:
    with live_page(lifetime=1.0) as page, socket.create_connection(("127.0.0.1", page.port), 20) as link:
        began = time.monotonic()

        def cut() -> bool:
            with contextlib.suppress(TimeoutError):
                link.settimeout(0.05)
                link.sendall(b"G")
                return link.recv(1) == b""
            return False

        with contextlib.suppress(OSError):
            assert eventually(cut)
        assert time.monotonic() - began < 20
        assert eventually(lambda: not page.listener._open)


def test_a_client_that_never_reads_costs_one_thread_for_a_while() -> None:
    model = FlowModel("test")
    names = namer()
    model.add(names.flow(event(number)) for number in range(500))
    with live_page(model=model, lifetime=1.0) as page:
        page.listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", page.port))
        link.sendall(b"GET /static/cytoscape.esm.min.mjs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            assert eventually(lambda: len(page.listener._open) == 1)
            assert len(page.updates()["rows"]) == 500  # others are served meanwhile
            assert eventually(lambda: not page.listener._open)
        finally:
            link.close()


def test_who_is_no_member_is_not_answered() -> None:
    class Nobody(Gate):
        def admits(self, peer: str) -> bool:
            assert peer == "ipv4:127.0.0.1:1"
            return False

    with live_page(gate=Nobody((), certified=False)) as page:
        assert raw(page, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""


# --- what is asked ---


@pytest.fixture
def own_page() -> Iterator[LivePage]:
    with live_page() as made:
        yield made


def test_filters_in_the_address_are_those_of_the_answer(own_page: LivePage) -> None:
    page, names = own_page, namer()
    page.model.add(
        [
            names.flow(event(1)),
            names.flow(event(2, source="10.0.0.2")),
            names.flow(event(3, source="203.0.113.9")),
        ]
    )
    assert len(page.updates()["rows"]) == 3
    assert [row["from"] for row in page.updates(host="web*")["rows"]] == ["web1", "web2"]
    assert [row["from"] for row in page.updates(from_="world")["rows"]] == ["world"]
    assert [edge["from"] for edge in page.updates(label="env=stage")["edges"]] == ["web2"]
    answer = page.updates()
    assert page.updates(epoch=answer["epoch"], cursor=answer["cursor"])["rows"] == []


def test_nothing_secret_is_told(page: LivePage) -> None:
    assert set(page.status()) == {
        "server",
        "connected",
        "why",
        "since",
        "flows",
        "kept",
        "edges",
        "forgottenEdges",
        "lost",
        "unreadable",
        "members",
        "unavailable",
    }
