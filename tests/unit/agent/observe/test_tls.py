# SPDX-License-Identifier: Apache-2.0
"""TLS: who has a certificate is served, nobody else; members are known by the names in theirs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
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


class Authority:
    """A CA that writes certificates into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        self._write(self.path, self._sign(self._name, self._key.public_key(), ca=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "member")])
        cert, secret = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        self._write(cert, self._sign(subject, key.public_key(), san=name))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert, secret

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool = False, san: str = ""
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if san:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
        return made.sign(self._key, hashes.SHA256())

    @staticmethod
    def _write(path: Path, cert: x509.Certificate) -> None:
        path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))


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


def free_port() -> int:
    import socket

    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


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
