# SPDX-License-Identifier: Apache-2.0
"""TLS by the rollout's certificates: who is answered, what happens when files come, change, break and go."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.unit.agent.observe.authority import CLUSTER, access, authority, certify, client
from tests.unit.agent.observe.support import (
    HOSTS,
    Client,
    Collector,
    event,
    fleet,
    fleet_bytes,
    namer,
    request,
)
from tests.unit.agent.observe.test_service import Source, host, running
from tests.unit.agent.observe.test_tls import free_port
from tests.waiting import eventually

from wardmesh.host.paths import Paths
from wardmesh.model.authority import Authority
from wardmesh.model.certificates import server_name
from wardmesh.model.errors import WardmeshError
from wardmesh.observe import service as module
from wardmesh.observe.client import Access, ObserverClient, open_channel
from wardmesh.observe.links import Links
from wardmesh.observe.listen import Binding, Gate, plan
from wardmesh.observe.relay import RelayService, start_server
from wardmesh.observe.ring import Ring
from wardmesh.observe.roster import Peer, Roster, peers_of
from wardmesh.observe.rpc import RpcServer
from wardmesh.observe.server import ObserverService
from wardmesh.observe.service import Observer, gate_of, settings_of
from wardmesh.observe.settings import HostPort, Tls

LOOPBACK = ipaddress.ip_address("127.0.0.1")
OWN = [ipaddress.ip_address("10.0.0.11")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    monkeypatch.setattr("wardmesh.observe.client.DIAL_TIMEOUT", 1.0)


@contextlib.contextmanager
def observing(root: Path) -> Iterator[tuple[Observer, Source, Paths, int]]:
    """An observer that listens everywhere; the rollout has brought nothing yet."""
    port = free_port()
    paths = host(root, f'hubble: {{enabled: true, listenAddress: ":{port}"}}\n')
    with running(paths) as (observer, source, _client):
        source.events.put(event(1))
        assert eventually(lambda: observer.ring.seen == 1)
        yield observer, source, paths, port


def answered(where: Access) -> bool:
    """Does it get the one flow?"""
    try:
        with ObserverClient(where) as asking:
            return len(list(asking.flows(request()))) == 1
    except WardmeshError:
        return False


def serial(port: int, pair: tuple[Path, Path]) -> int:
    """Of the certificate that a new connection meets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(*pair)
    with socket.create_connection(("127.0.0.1", port), 5) as link, context.wrap_socket(link) as secured:
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def installed_serial(paths: Paths) -> int:
    return x509.load_pem_x509_certificate(paths.hubble_cert.read_bytes()).serial_number


def test_certificates_that_come_are_used_and_plain_text_ends(tmp_path: Path) -> None:
    ca, foreign = authority(), authority()
    with observing(tmp_path / "host") as (observer, _source, paths, port):
        assert answered(Access(f"127.0.0.1:{port}"))  # plain, from loopback alone
        certify(paths, "db1", ca)
        member = client(tmp_path, server_name("web1", CLUSTER), ca)
        assert eventually(lambda: answered(access(port, "db1", paths.fleet_ca, member)))
        left = client(tmp_path, server_name("left", CLUSTER), ca)
        operator = client(tmp_path, "alice.client.wardmesh", ca)
        expired = client(tmp_path, "expired", ca, days=1, ago=2 * 86400)
        early = client(tmp_path, "early", ca, ago=-86400)
        stranger = client(tmp_path, "stranger", foreign)
        forged = client(tmp_path, server_name("web2", CLUSTER), foreign)
        (tmp_path / "foreign.crt").write_bytes(foreign.bundle)
        trust = paths.fleet_ca
        cases: list[tuple[str, Access, bool]] = [
            ("member", access(port, "db1", trust, member), True),
            ("operator", access(port, "db1", trust, operator), True),
            ("plain", Access(f"127.0.0.1:{port}"), False),
            ("nothing", access(port, "db1", trust, None), False),
            ("foreign CA", access(port, "db1", trust, stranger), False),
            ("a member's name from a foreign CA", access(port, "db1", trust, forged), False),
            ("expired", access(port, "db1", trust, expired), False),
            ("not valid yet", access(port, "db1", trust, early), False),
            ("no member any more", access(port, "db1", trust, left), False),
            ("client expects another member", access(port, "web1", trust, member), False),
            ("client believes another CA", access(port, "db1", tmp_path / "foreign.crt", member), False),
        ]
        for what, where, wanted in cases:
            assert answered(where) is wanted, what
        assert answered(Access(f"unix://{paths.hubble}"))
        assert observer.settings.tls is not None


def test_a_host_that_leaves_is_refused_at_once(tmp_path: Path) -> None:
    ca = authority()
    with observing(tmp_path / "host") as (_observer, _source, paths, port):
        certify(paths, "db1", ca)
        where = access(port, "db1", paths.fleet_ca, client(tmp_path, server_name("web1", CLUSTER), ca))
        assert eventually(lambda: answered(where))
        fewer = {name: row for name, row in HOSTS.items() if name != "web1"}
        paths.fleet.write_bytes(fleet_bytes(fewer, generation=2))
        assert eventually(lambda: not answered(where))


def test_a_renewal_leaves_open_streams_alone(tmp_path: Path) -> None:
    """The CA is replaced on the way: both are believed for a while, then only the new one."""
    old = authority()
    new = authority(old.bundle)
    with observing(tmp_path / "host") as (observer, source, paths, port):
        certify(paths, "db1", old)
        pair = client(tmp_path, "alice.client.wardmesh", old)
        (tmp_path / "both.crt").write_bytes(new.bundle)
        where = access(port, "db1", tmp_path / "both.crt", pair)
        assert eventually(lambda: answered(where))
        channel = open_channel(where)
        stream = Collector(Client(channel).GetFlows(request(follow=True, number=10)))
        assert eventually(lambda: len(stream.got) == 1)
        source.events.put(event(2))
        assert eventually(lambda: len(stream.got) == 2)
        first = installed_serial(paths)
        assert serial(port, pair) == first
        certify(paths, "db1", old, new.bundle)  # both are believed
        certify(paths, "db1", new)
        assert installed_serial(paths) != first
        assert serial(port, pair) == installed_serial(paths)
        newer = client(tmp_path, "bob.client.wardmesh", new)
        for pairs in (pair, newer):
            with ObserverClient(access(port, "db1", tmp_path / "both.crt", pairs)) as asking:
                assert len(list(asking.flows(request()))) == 2
        only = authority_only(new)
        certify(paths, "db1", new, only)
        with ObserverClient(access(port, "db1", tmp_path / "both.crt", newer)) as asking:
            assert len(list(asking.flows(request()))) == 2
        with pytest.raises(WardmeshError), ObserverClient(where) as asking:
            list(asking.flows(request()))  # by the CA that is not believed any more
        source.events.put(event(3))
        assert eventually(lambda: len(stream.got) == 3), stream.error
        assert stream.error is None
        stream.stop()
        channel.close()
        assert observer.settings.tls is not None


def authority_only(ca: Authority) -> bytes:
    """The bundle without the other CA."""
    from wardmesh.model.authority import pem_of

    return pem_of(ca.certificate)


@pytest.mark.parametrize("damage", ["cut", "empty", "other key", "bundle"])
def test_broken_files_leave_the_last_good_ones_in_use(tmp_path: Path, damage: str) -> None:
    ca = authority()
    with observing(tmp_path / "host") as (_observer, _source, paths, port):
        certify(paths, "db1", ca)
        (tmp_path / "ca.crt").write_bytes(ca.bundle)
        where = access(port, "db1", tmp_path / "ca.crt", client(tmp_path, "alice", ca))
        assert eventually(lambda: answered(where))
        good = paths.hubble_cert.read_bytes()
        if damage == "other key":
            paths.hubble_cert.write_bytes(client(tmp_path, "other", ca)[0].read_bytes())
        elif damage == "bundle":
            paths.fleet_ca.write_bytes(b"nothing")
        else:
            paths.hubble_cert.write_bytes(good[:300] if damage == "cut" else b"")
        assert answered(where) and answered(where)
        assert not answered(Access(f"127.0.0.1:{port}"))


@pytest.mark.parametrize("damage", ["cut", "open key"])
def test_a_start_with_broken_files_serves_the_socket_alone_until_they_are_mended(
    tmp_path: Path, damage: str
) -> None:
    ca, port = authority(), free_port()
    paths = host(tmp_path / "host", f'hubble: {{enabled: true, listenAddress: ":{port}"}}\n')
    certify(paths, "db1", ca)
    (tmp_path / "ca.crt").write_bytes(ca.bundle)
    where = access(port, "db1", tmp_path / "ca.crt", client(tmp_path, "alice", ca))
    if damage == "cut":
        paths.hubble_cert.write_bytes(paths.hubble_cert.read_bytes()[:300])
    else:
        paths.hubble_key.chmod(0o644)
    with running(paths) as (_observer, source, asking):
        source.events.put(event(1))
        assert eventually(lambda: len(list(asking.GetFlows(request()))) == 1)
        assert not answered(where) and not answered(Access(f"127.0.0.1:{port}"))
        paths.hubble_key.chmod(0o600)
        certify(paths, "db1", ca)
        os.utime(paths.hubble_key)
        assert eventually(lambda: answered(where))


def test_without_its_files_an_observer_goes_back_to_members_alone(tmp_path: Path) -> None:
    ca = authority()
    with observing(tmp_path / "host") as (observer, _source, paths, port):
        certify(paths, "db1", ca)
        assert eventually(lambda: not answered(Access(f"127.0.0.1:{port}")))
        paths.hubble_cert.unlink()
        assert eventually(lambda: answered(Access(f"127.0.0.1:{port}")))
        assert [str(item.address) for item in observer._plan.bindings] == ["127.0.0.1"]


def test_plain_text_ends_when_it_may_not_be_any_more(tmp_path: Path) -> None:
    """An address that is not loopback, in strict mode; then the mode changes."""
    port = free_port()
    paths = host(tmp_path, f'hubble: {{enabled: true, listenAddress: "127.0.0.2:{port}"}}\n')
    with running(paths) as (observer, _source, _client):
        observer.settings = settings_with(observer, HostPort("10.0.0.11", port))
        observer.forget()
        assert eventually(lambda: not observer._plan.bindings)
        assert answered_socket(paths)


def settings_with(observer: Observer, listen: HostPort) -> Any:
    from dataclasses import replace

    return replace(observer.settings, listen=listen)


def answered_socket(paths: Paths) -> bool:
    with ObserverClient(Access(f"unix://{paths.hubble}")) as asking:
        return list(asking.flows(request())) == []


# --- what is opened, and to whom ---

ROLLOUT = Tls(Path("/c"), Path("/k"), Path("/ca"), rollout=True)


@pytest.mark.parametrize(
    ("where", "tls", "wanted"),
    [
        ("", ROLLOUT, [("::", True)]),
        ("0.0.0.0", ROLLOUT, [("0.0.0.0", True)]),
        ("10.0.0.11", ROLLOUT, [("10.0.0.11", True)]),
        ("192.0.2.1", ROLLOUT, [("192.0.2.1", True)]),
        ("127.0.0.1", ROLLOUT, [("127.0.0.1", False)]),
        ("localhost", ROLLOUT, [("127.0.0.1", False)]),
        ("::1", ROLLOUT, [("::1", False)]),
        ("127.0.0.1", Tls(Path("/c"), Path("/k"), Path("/ca")), [("127.0.0.1", True)]),
    ],
)
def test_everything_beyond_loopback_is_tls(where: str, tls: Tls, wanted: list[tuple[str, bool]]) -> None:
    found = plan(HostPort(where, 1), tls, OWN, sealed=False)
    assert [(str(item.address), item.tls) for item in found.bindings] == wanted


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ([], True),
        ([b"alice.client.wardmesh"], True),
        ([server_name("db1", "lab").encode()], True),
        ([b"db1", server_name("db1", "lab").encode()], True),
        ([server_name("left", "lab").encode()], False),
        ([server_name("db1", "other").encode()], False),
        ([b"*.lab.hubble-grpc.cilium.io"], False),
        ([b"\xff.hubble-grpc.cilium.io"], False),
    ],
)
def test_whose_certificate_counts(names: list[bytes], known: bool) -> None:
    assert gate_of(fleet(), ROLLOUT).knows(names) is known
    assert gate_of(fleet(), Tls(Path("/c"), Path("/k"))).knows(names) is True
    assert Gate((), certified=True).members_only is False


def test_configured_files_win(tmp_path: Path) -> None:
    paths = host(tmp_path, "hubble: {tls: {certFile: /c, keyFile: /k, clientCaFile: /ca}}\n")
    certify(paths, "db1", authority())
    assert settings_of(paths).tls == Tls(Path("/c"), Path("/k"), Path("/ca"))
    paths.config.write_text("hubble: {enabled: true}\n")
    found = settings_of(paths).tls
    assert found is not None and found.rollout
    paths.fleet_ca.unlink()
    assert settings_of(paths).tls is None


# --- the relay ---


class Member:
    """A member's server with its certificate."""

    def __init__(self, root: Path, name: str, ca: Authority, certified_as: str = "") -> None:
        self.name, self.port, self.paths = name, free_port(), Paths(root / name)
        self.tls = certify(self.paths, certified_as or name, ca)
        self.namer = namer(name)
        self.ring = Ring(63)
        self.roster = Roster(peers_of(self.namer.names.fleet, 4244))
        service = ObserverService(self.ring, lambda: self.namer.names, self.roster, tls=True)
        gate = gate_of(fleet(), self.tls)
        self.server = RpcServer(
            service.handlers(lambda: gate), None, [Binding(LOOPBACK, self.port, True)], self.tls
        )

    @property
    def peer(self) -> Peer:
        return Peer(f"lab/{self.name}", f"127.0.0.1:{self.port}", server_name(self.name, CLUSTER))

    def add(self, number: int) -> None:
        self.ring.add([self.namer.flow(event(number, node=self.name))])

    def close(self) -> None:
        self.ring.close()
        self.roster.close()
        self.server.close(0)


class SecuredRelay:
    """A relay that asks by TLS, and is asked by TLS."""

    def __init__(self, tls: Tls) -> None:
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self._start(tls))

    async def _start(self, tls: Tls) -> None:
        self.links = Links(tls)
        gate = gate_of(fleet(), tls)
        handlers = RelayService(self.links, lambda: gate, "lab/relay").handlers()
        self._server = start_server(handlers, [Binding(LOOPBACK, self.port, True)], tls)
        await self._server.start()

    def run(self, job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(20)

    async def _stop(self) -> None:
        await self._server.stop(0)
        await self.links.close()

    def close(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def making() -> Iterator[Callable[[Any], Any]]:
    """Closes what a test makes."""
    made: list[Any] = []

    def keep(item: Any) -> Any:
        made.append(item)
        return item

    yield keep
    for item in reversed(made):
        item.close()


def sources(answers: Any) -> list[str]:
    return sorted(answer.node_name for answer in answers if answer.HasField("flow"))


def test_the_relay_asks_members_by_tls_and_knows_them_by_name(
    tmp_path: Path, making: Callable[[Any], Any]
) -> None:
    """web2 shows web1's certificate, another host one of a foreign CA: both count as unreachable."""
    ca = authority()
    db1, web1 = (making(Member(tmp_path, name, ca)) for name in ("db1", "web1"))
    liar = making(Member(tmp_path, "web2", ca, certified_as="web1"))
    foreign = making(Member(tmp_path, "web3", authority()))
    relay = making(SecuredRelay(certify(Paths(tmp_path / "relay"), "db1", ca)))
    for member in (db1, web1, liar, foreign):
        member.add(1)
    relay.run(relay.links.replace([member.peer for member in (db1, web1, liar, foreign)]))
    pair = client(tmp_path, "alice.client.wardmesh", ca)
    where = access(relay.port, "db1", Paths(tmp_path / "relay").fleet_ca, pair)
    with ObserverClient(where) as asking:
        found = list(asking.flows(request()))
    assert sources(found) == ["lab/db1", "lab/web1"]
    statuses = [answer.node_status for answer in found if answer.node_status.state_change == 2]
    missing = {name for status in statuses for name in status.node_names}
    assert missing == {"lab/web2", "lab/web3"}
    for pairs in (None, client(tmp_path, "stranger", authority())):
        assert not answered(access(relay.port, "db1", where.ca or Path(), pairs))
    assert not answered(Access(f"127.0.0.1:{relay.port}"))
    left = client(tmp_path, server_name("left", CLUSTER), ca)
    with (
        pytest.raises(WardmeshError, match="no member any more"),
        ObserverClient(access(relay.port, "db1", where.ca or Path(), left)) as asking,
    ):
        list(asking.flows(request()))


def test_new_certificates_of_a_relay_leave_its_streams_alone(
    tmp_path: Path, making: Callable[[Any], Any]
) -> None:
    ca = authority()
    member = making(Member(tmp_path, "web1", ca))
    own = Paths(tmp_path / "relay")
    relay = making(SecuredRelay(certify(own, "db1", ca)))
    relay.run(relay.links.replace([member.peer]))
    pair = client(tmp_path, "alice.client.wardmesh", ca)
    channel = open_channel(access(relay.port, "db1", own.fleet_ca, pair))
    member.add(1)
    stream = Collector(Client(channel).GetFlows(request(follow=True, number=10)))

    def flows() -> int:
        return sum(answer.HasField("flow") for answer in stream.got)

    assert eventually(lambda: flows() == 1)
    for number in (2, 3):
        before = installed_serial(own)
        relay.run(relay.links.secure(certify(own, "db1", ca)))
        assert serial(relay.port, pair) == installed_serial(own) != before
        if number == 2:  # the second change ends the stream before the last: it is taken up anew
            member.add(number)
            assert eventually(lambda: flows() == 2), stream.error
            statuses = [answer.node_status for answer in stream.got if answer.HasField("node_status")]
            states = [status.state_change for status in statuses]
            assert states == [1]
    assert stream.error is None
    with ObserverClient(access(relay.port, "db1", own.fleet_ca, pair)) as asking:
        assert len(sources(asking.flows(request()))) == 2
    stream.stop()
    channel.close()
