# SPDX-License-Identifier: Apache-2.0
"""The health port: members get an answer, strangers nothing, and nobody can hold it up."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from wardmesh.health import responder as module
from wardmesh.health import webprobe
from wardmesh.health.loop import Loop
from wardmesh.health.responder import CONNECTIONS_OF_ONE, Responder
from wardmesh.health.web import REQUEST, REQUEST_MAX, answer, judge
from wardmesh.health.webprobe import REFUSED, WebProbe


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (REQUEST, b"200"),
        (b"HEAD /hello HTTP/1.0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /hello/../etc HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /hello HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /hello\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"x" * (REQUEST_MAX + 1), b"431"),
    ],
)
def test_answers(data: bytes, status: bytes) -> None:
    said = answer(data)
    assert said is not None and said.startswith(b"HTTP/1.1 " + status)
    assert said.endswith(b"\r\n\r\n") and b"wardmesh" not in said  # nothing about the host


def test_a_part_of_a_request_is_waited_for() -> None:
    assert all(answer(REQUEST[:length]) is None for length in range(len(REQUEST)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n", ""),
        (b"HTTP/1.0 503 Busy\r\n", "HTTP status 503"),
        (b"SSH-2.0-OpenSSH\r\n", "an answer that is not HTTP"),
        (b"HTTP/1.1\r\n", "an answer that is not HTTP"),
        (b"HTTP/1.1 2", None),
        (b"y" * 5000, "an answer that is not HTTP"),
    ],
)
def test_judgement_of_answers(data: bytes, said: str | None) -> None:
    assert judge(data) == said


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def run_until(loop: Loop, question: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not question():
        assert time.monotonic() < end, "did not happen"
        loop.once(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def probe(loop: Loop, port: int) -> tuple[str, float | None]:
    found: list[tuple[str, float | None]] = []
    WebProbe(loop, "127.0.0.1", lambda *said: found.append(said), port)
    run_until(loop, lambda: found)
    return found[0]


def closed(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        return link.recv(10) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_member_is_answered_and_a_stranger_is_not(loop: Loop) -> None:
    port = free_port()
    members = {"127.0.0.1"}
    held = Responder(loop, members.__contains__, port)
    held.listen(["127.0.0.1"])
    problem, seconds = probe(loop, port)
    assert problem == "" and seconds is not None and held.answered == 1
    members.clear()
    problem, seconds = probe(loop, port)
    assert problem and seconds is None and (held.answered, held.refused) == (1, 1)
    held.close()
    assert probe(loop, port) == (REFUSED, None)


def test_slow_and_broken_clients_are_ended(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    port = free_port()
    held = Responder(loop, lambda _address: True, port)
    held.listen(["127.0.0.1"])
    slow = socket.create_connection(("127.0.0.1", port))
    slow.send(b"GET /he")
    rude = socket.create_connection(("127.0.0.1", port))
    rude.send(b"\0" * 4000)
    run_until(loop, lambda: closed(slow))
    assert probe(loop, port)[0] == ""
    slow.close()
    rude.close()
    held.close()


def test_one_member_cannot_take_all_connections(loop: Loop) -> None:
    port = free_port()
    held = Responder(loop, lambda _address: True, port)
    held.listen(["127.0.0.1"])
    links = [socket.create_connection(("127.0.0.1", port)) for _turn in range(CONNECTIONS_OF_ONE + 3)]
    run_until(loop, lambda: sum(map(closed, links)) == 3)
    assert held.refused == 3
    for link in links:
        link.close()
    run_until(loop, lambda: probe(loop, port)[0] == "")  # those that left made room
    held.close()


def test_a_port_that_is_taken_is_told_and_tried_again(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.05)
    other = socket.create_server(("127.0.0.1", 0))
    port = int(other.getsockname()[1])
    held = Responder(loop, lambda _address: True, port)
    held.listen(["127.0.0.1"])
    assert list(held.problems) == ["127.0.0.1"]
    other.close()
    run_until(loop, lambda: not held.problems)
    assert probe(loop, port)[0] == ""
    held.close()


def test_a_family_that_this_host_does_not_have_is_an_error_of_the_check(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_words: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "no IPv6")

    found: list[tuple[str, float | None]] = []
    with monkeypatch.context() as changed:
        changed.setattr(webprobe.socket, "socket", none)
        WebProbe(loop, "fd00::1", lambda *said: found.append(said), 4240)
    run_until(loop, lambda: found)
    assert found == [("address family not supported by protocol", None)]


def test_a_probe_that_nobody_answers_is_given_up(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found: list[tuple[str, float | None]] = []
        made = WebProbe(loop, "127.0.0.1", lambda *said: found.append(said), silent.getsockname()[1])
        loop.once(0.05)
        made.abandon()
        made.abandon()
    assert found == [("no answer", None)]
