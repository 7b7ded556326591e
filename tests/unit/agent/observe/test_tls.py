# SPDX-License-Identifier: Apache-2.0
"""TLS: who has a certificate is served, nobody else; members are known by the names in theirs."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.agent.observe.certificates import Authority, free_port
from tests.unit.agent.observe.support import Client, event, namer, request

from wardmesh.model.certificates import server_name
from wardmesh.model.config import parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.client import Access, ObserverClient, open_channel
from wardmesh.observe.listen import Binding, Gate
from wardmesh.observe.proto import message
from wardmesh.observe.ring import Ring
from wardmesh.observe.roster import Roster, peers_of
from wardmesh.observe.rpc import RpcServer
from wardmesh.observe.server import ObserverService
from wardmesh.observe.settings import Tls, read_settings

NAME = server_name("db1", "lab")


class Secured:
    """A server on a port of loopback."""

    def __init__(self, tls: Tls, port: int, revoked: frozenset[str] = frozenset()) -> None:
        made = namer()
        self.ring = Ring(63)
        self.ring.add([made.flow(event(1))])
        roster = Roster(peers_of(made.names.fleet, 4244))
        gate = Gate((), certified=tls.client_ca is not None, revoked=revoked)
        service = ObserverService(self.ring, lambda: made.names, roster, tls=True)
        binding = Binding(ipaddress.ip_address("127.0.0.1"), port, True)
        self.server = RpcServer(service.handlers(lambda: gate), None, [binding], tls)

    def close(self) -> None:
        self.ring.close()
        self.server.close(0)


def count(access: Access) -> int:
    with ObserverClient(access) as client:
        return len(list(client.flows(request())))


def test_certificates_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardmesh.observe.client.DIAL_TIMEOUT", 1.5)
    authority, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    cert, key = authority.issue(NAME)
    client_cert, client_key = authority.issue("operator")
    bad_cert, bad_key = other.issue("stranger")
    port = free_port()
    secured = Secured(Tls(cert, key, authority.path), port)
    target = f"127.0.0.1:{port}"
    try:
        assert count(Access(target, True, authority.path, client_cert, client_key, NAME)) == 1
        assert count(Access(f"tls://{target}", False, authority.path, client_cert, client_key, NAME)) == 1
        refused = [
            Access(target, True, authority.path, None, None, NAME),
            Access(target, True, authority.path, bad_cert, bad_key, NAME),
            Access(target, True, other.path, client_cert, client_key, NAME),
            Access(target, True, authority.path, client_cert, client_key, server_name("web1", "lab")),
            Access(target),
        ]
        for access in refused:
            with pytest.raises(WardmeshError):
                count(access)
    finally:
        secured.close()


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WardmeshError) as caught:
        Secured(Tls(tmp_path / "none.crt", tmp_path / "none.key"), free_port())
    assert "none." in str(caught.value)


def fingerprint(cert: Path) -> str:
    """As openssl prints it."""
    der = ssl.PEM_cert_to_DER_cert(cert.read_text())
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der).digest())


def revoked_by(*given: str) -> frozenset[str]:
    return read_settings(parse_config(f"hubble: {{tls: {{revoked: {json.dumps(given)}}}}}", "test")).revoked


def test_one_certificate_is_refused_and_the_others_are_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    cert, key = authority.issue(NAME)
    lost, lost_key = authority.issue("lost")
    kept, kept_key = authority.issue("kept")
    port = free_port()
    secured = Secured(Tls(cert, key, authority.path), port, revoked_by(fingerprint(lost)))
    target = f"127.0.0.1:{port}"
    try:
        assert count(Access(target, True, authority.path, kept, kept_key, NAME)) == 1
        channel = open_channel(Access(target, True, authority.path, lost, lost_key, NAME), grpc)
        for name, asked in (
            ("ServerStatus", message("observer.ServerStatusRequest")()),
            ("GetFlows", request()),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(as_list(getattr(Client(channel), name)(asked)))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "revoked" in caught.value.details()
        channel.close()
    finally:
        secured.close()


def as_list(answer: Any) -> list[Any]:
    return list(answer) if hasattr(answer, "__iter__") else [answer]


@pytest.mark.parametrize("word", ["", "abc", "g" * 64, "0" * 63, "0" * 65, "sha256:" + "0" * 64])
def test_what_is_no_fingerprint_is_an_error(word: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        revoked_by(word)
    assert caught.value.where == "hubble.tls.revoked"


def test_fingerprints_are_read_with_and_without_colons() -> None:
    assert revoked_by("AB" * 32, ":".join(["cd"] * 32)) == {"ab" * 32, "cd" * 32}
    gate = Gate((), certified=True, revoked=[hashlib.sha256(b"der").hexdigest()])
    assert not gate.trusts(b"der") and gate.trusts(b"other") and gate.trusts(None)
