# SPDX-License-Identifier: Apache-2.0
"""Server and client over a real unix socket."""

from __future__ import annotations

import socket
import stat

import pytest
from tests.waiting import wait_for

from wardmesh.api import client
from wardmesh.api.server import MOST_CLIENTS, Server
from wardmesh.model.errors import WardmeshError


def refuse(_body):
    raise WardmeshError("what", where="where", why="why", remedy="remedy")


def crash(_body):
    raise RuntimeError("boom")


def answer_of(link: socket.socket) -> bytes:
    """Headers and body, which may come in pieces."""
    data = b""
    while not data.endswith(b"}}"):
        part = link.recv(4096)
        assert part, data
        data += part
    return data


@pytest.fixture
def path(tmp_path):
    routes = {
        ("GET", "/v1/status"): lambda body: {"ok": True},
        ("POST", "/v1/mode"): dict,
        ("GET", "/refuse"): refuse,
        ("GET", "/crash"): crash,
    }
    server = Server(tmp_path / "run" / "api.sock", routes)
    yield tmp_path / "run" / "api.sock"
    server.close()


def test_answers_and_bodies_go_both_ways(path):
    assert client.call(path, "GET", "/v1/status") == {"ok": True}
    assert client.call(path, "POST", "/v1/mode", {"mode": "strict"}) == {"mode": "strict"}


def test_an_error_keeps_its_four_parts(path):
    with pytest.raises(WardmeshError) as caught:
        client.call(path, "GET", "/refuse")
    assert caught.value.as_dict() == {"what": "what", "where": "where", "why": "why", "remedy": "remedy"}


@pytest.mark.parametrize(("place", "text"), [("/nowhere", "no such request"), ("/crash", "boom")])
def test_what_went_wrong_is_told(path, place, text):
    with pytest.raises(WardmeshError, match=text):
        client.call(path, "GET", place)


def test_others_cannot_open_the_socket(path):
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_a_broken_request_is_answered_and_the_server_lives_on(path):
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(path))
        link.sendall(b"POST /v1/mode HTTP/1.1\r\nContent-Length: 3\r\n\r\n{x}")
        assert b"not JSON" in answer_of(link)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(path))
        link.sendall(b"POST /v1/mode HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
        assert b"too long" in answer_of(link)
    assert client.listens(path)


def test_clients_beyond_the_limit_are_sent_away_and_give_their_places_back(path):
    held = []
    for _number in range(MOST_CLIENTS + 5):
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(path))  # waits where the queue is full
        link.settimeout(10)
        held.append(link)
    for link in held[MOST_CLIENTS:]:
        assert link.recv(1) == b""
    for link in held:
        link.close()
    wait_for(lambda: answered(path), "places that were given back are used")


def answered(path):
    try:
        return client.call(path, "GET", "/v1/status") == {"ok": True}
    except WardmeshError:
        return False


def test_no_agent_is_a_clear_error(tmp_path):
    assert not client.listens(tmp_path / "none.sock")
    with pytest.raises(WardmeshError, match="does not run") as caught:
        client.call(tmp_path / "none.sock", "GET", "/v1/status")
    assert "systemctl start wardmesh" in caught.value.remedy
