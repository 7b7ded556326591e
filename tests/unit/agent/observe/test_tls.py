# SPDX-License-Identifier: Apache-2.0
"""TLS: who has a certificate is served, nobody else; members are known by the names in theirs."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from tests.unit.agent.observe.certificates import Authority, free_port
from tests.unit.agent.observe.support import event, namer, request

from wardmesh.model.certificates import server_name
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.client import Access, ObserverClient
from wardmesh.observe.listen import Binding, Gate
from wardmesh.observe.ring import Ring
from wardmesh.observe.roster import Roster, peers_of
from wardmesh.observe.rpc import RpcServer
from wardmesh.observe.server import ObserverService
from wardmesh.observe.settings import Tls

NAME = server_name("db1", "lab")


class Secured:
    """A server on a port of loopback."""

    def __init__(self, tls: Tls, port: int) -> None:
        made = namer()
        self.ring = Ring(63)
        self.ring.add([made.flow(event(1))])
        roster = Roster(peers_of(made.names.fleet, 4244))
        gate = Gate((), certified=tls.client_ca is not None)
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
