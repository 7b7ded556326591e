# SPDX-License-Identifier: Apache-2.0
"""Metrics by HTTPS with the rollout's certificates; never plain text instead."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.agent.observe.authority import authority, certify

from wardmesh.host.paths import Paths
from wardmesh.observe.credentials import SocketTls, rollout_tls
from wardmesh.observe.metrics import MetricsServer

ADDRESSES = ("127.0.0.1", "0.0.0.0")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[], tuple[Paths, int, int]]]:
    """A server on loopback and on every address: its plain and its secured port."""
    servers = []

    def start() -> tuple[Paths, int, int]:
        paths = Paths(tmp_path / "host")
        server = MetricsServer(
            ADDRESSES, 0, list, lambda _address: True, SocketTls(lambda: rollout_tls(paths))
        )
        servers.append(server)
        return paths, server.ports[0], server.ports[1]

    yield start
    for server in servers:
        server.close()


def get(port: int, ca: Path | None) -> tuple[int, bytes]:
    """By HTTPS where a CA is given; (0, reason) where nobody answers."""
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    made = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        if context
        else http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    )
    try:
        made.request("GET", "/metrics")
        answer = made.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error).encode()
    finally:
        made.close()


def test_loopback_is_plain_and_the_rest_is_not(
    serve: Callable[[], tuple[Paths, int, int]], tmp_path: Path
) -> None:
    paths, plain, secured = serve()
    ca, foreign = authority(), authority()
    (tmp_path / "ca.crt").write_bytes(ca.bundle)
    (tmp_path / "foreign.crt").write_bytes(foreign.bundle)
    assert get(secured, None)[0] == get(secured, tmp_path / "ca.crt")[0] == 0  # no certificate yet
    assert get(plain, None)[0] == 200
    certify(paths, "db1", ca)
    assert get(secured, tmp_path / "ca.crt")[0] == 200
    assert get(secured, tmp_path / "foreign.crt")[0] == 0
    assert get(secured, None)[0] == 0
    paths.hubble_cert.unlink()
    assert get(secured, tmp_path / "ca.crt")[0] == get(secured, None)[0] == 0


def test_a_new_certificate_is_used_and_a_broken_one_is_not(
    serve: Callable[[], tuple[Paths, int, int]], tmp_path: Path
) -> None:
    paths, _plain, secured = serve()
    ca = authority()
    (tmp_path / "ca.crt").write_bytes(ca.bundle)

    def serial() -> int:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        link = socket.create_connection(("127.0.0.1", secured), 5)
        with context.wrap_socket(link, server_hostname="127.0.0.1") as met:
            return x509.load_der_x509_certificate(met.getpeercert(binary_form=True) or b"").serial_number

    certify(paths, "db1", ca)
    first = serial()
    certify(paths, "db1", ca)
    assert serial() != first
    second, good = serial(), paths.hubble_cert.read_bytes()
    paths.hubble_cert.write_bytes(good[:200])
    assert serial() == second


def test_a_client_that_says_nothing_holds_nobody_up(
    serve: Callable[[], tuple[Paths, int, int]], tmp_path: Path
) -> None:
    paths, _plain, secured = serve()
    ca = authority()
    (tmp_path / "ca.crt").write_bytes(ca.bundle)
    certify(paths, "db1", ca)
    silent = [socket.create_connection(("127.0.0.1", secured), 5) for _ in range(8)]
    try:
        assert get(secured, tmp_path / "ca.crt")[0] == 200
    finally:
        for link in silent:
            link.close()
