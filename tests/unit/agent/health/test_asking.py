# SPDX-License-Identifier: Apache-2.0
"""Asking members for their digests over loopback: the real responder answers, refuses, or is not there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wardmesh.api.server import Server
from wardmesh.cli.digest_teller import Teller
from wardmesh.health.asking import ask_all
from wardmesh.health.drift import LARGEST, PARTS, Report, compare, document
from wardmesh.health.loop import Loop
from wardmesh.health.record import Peer
from wardmesh.health.responder import Responder
from wardmesh.host.paths import Paths

REPORT = Report("h2", tuple(compare(name, {"a": "b"}, {"a": "b"}) for name in PARTS))
GOOD = json.dumps(document(REPORT)).encode()
PEER = Peer("h2", ("127.0.0.2",))


@contextmanager
def responder(body: bytes, *, by_tunnel: bool = True, admits: bool = True) -> Iterator[int]:
    """Answers on 127.0.0.2 of the port that it gives; the digest comes later, as from another thread."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        port = int(made.getsockname()[1])
    loop = Loop()

    def tell(told: Callable[[bytes], None]) -> None:
        threading.Thread(target=lambda: loop.ask(lambda: told(body))).start()

    made_one = Responder(loop, lambda _a: admits, port, by_tunnel=lambda _a: by_tunnel, tell=tell)
    made_one.listen(["127.0.0.2"])
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        loop.stop()
        thread.join(10)
        made_one.close()
        loop.close()


def asked(port: int, *, by_tunnel: bool = True, patience: float = 10.0) -> Report:
    (found,) = ask_all([PEER], lambda _address: by_tunnel, port=port, patience=patience)
    return found


def test_a_member_tells_its_digest() -> None:
    with responder(GOOD) as port:
        assert asked(port) == REPORT
        many = ask_all([PEER] * 5, lambda _address: True, port=port)
    assert many == [REPORT] * 5


@pytest.mark.parametrize(
    ("body", "options", "why"),
    [
        (GOOD, {"by_tunnel": False}, "do not come by the tunnel"),
        (GOOD, {"admits": False}, "closed without an answer"),
        (b"", {}, "its agent does not answer"),
        (b"nonsense", {}, "not JSON"),
        (b"7" * (LARGEST + 9), {}, f"at most {LARGEST}"),
    ],
)
def test_why_there_is_none(body: bytes, options: dict[str, bool], why: str) -> None:
    with responder(body, **options) as port:
        found = asked(port)
    assert not found.parts and why in found.problem


def test_who_does_not_listen_or_is_behind_no_tunnel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        free = int(made.getsockname()[1])
    assert "nothing listens" in asked(free).problem
    assert "no way to it through the tunnel" in asked(free, by_tunnel=False).problem


def test_who_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.2", 0)) as silent:
        found = asked(int(silent.getsockname()[1]), patience=0.3)
    assert found.problem == "no answer within 0.3 s"


def test_many_who_ask_at_once_are_one_look_at_the_kernel(tmp_path: Path) -> None:
    looks: list[int] = []

    def look(_body: object) -> dict[str, Any]:
        looks.append(1)
        return document(REPORT)

    paths, loop, told = Paths(tmp_path), Loop(), list[bytes]()
    teller = Teller(loop, paths)
    server = Server(paths.socket, {("GET", "/v1/digest"): look})
    try:
        for _member in range(50):
            teller.tell(told.append)
        while len(told) < 50:
            loop.once(0.1)
        teller.tell(told.append)  # at once, from the same look
    finally:
        server.close()
        loop.close()
    assert len(told) == 51 and looks == [1]
    assert {json.loads(body)["digest"] for body in told} == {REPORT.digest}


def test_without_an_agent_there_is_nothing_to_tell(tmp_path: Path) -> None:
    loop, told = Loop(), list[bytes]()
    Teller(loop, Paths(tmp_path)).tell(told.append)
    while not told:
        loop.once(0.1)
    loop.close()
    assert told == [b""]
