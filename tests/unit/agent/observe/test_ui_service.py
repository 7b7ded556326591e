# SPDX-License-Identifier: Apache-2.0
"""Where the page may be served, its TLS, and `wardmesh ui` as it is installed: one file."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.observe.certificates import Authority
from tests.unit.agent.observe.support import Served, event, fleet, fleet_bytes
from tests.unit.agent.observe.ui_page import LivePage, live_page
from tests.waiting import eventually

from wardmesh.host.paths import Paths
from wardmesh.model.config import parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.client import Access
from wardmesh.observe.listen import Gate
from wardmesh.observe.settings import HostPort, Tls, read_settings
from wardmesh.observe.ui.service import Asked, Page, binding_of, relay_access

REPO = Path(__file__).resolve().parents[4]
NO_TLS, SOME_TLS = None, Tls(Path("/c"), Path("/k"))

# --- where ---


@pytest.mark.parametrize(
    ("host", "tls", "address", "secured"),
    [
        ("127.0.0.1", NO_TLS, "127.0.0.1", False),
        ("localhost", NO_TLS, "127.0.0.1", False),
        ("::1", NO_TLS, "::1", False),
        ("127.0.0.1", SOME_TLS, "127.0.0.1", True),
        ("10.0.0.1", SOME_TLS, "10.0.0.1", True),
        ("", SOME_TLS, "::", True),
        ("0.0.0.0", SOME_TLS, "0.0.0.0", True),
    ],
)
def test_plain_on_loopback_and_by_tls_elsewhere(
    host: str, tls: Tls | None, address: str, secured: bool
) -> None:
    found = binding_of(HostPort(host, 4246), tls)
    assert (str(found.address), found.port, found.tls) == (address, 4246, secured)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "fd00::1", "not an address"])
def test_plain_text_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        binding_of(HostPort(host, 4246), None)
    assert "listenAddress" in caught.value.where and caught.value.remedy


def settings_of(text: str) -> Any:
    return read_settings(parse_config(text, "config.yaml"))


def test_settings() -> None:
    assert settings_of("").ui == HostPort("127.0.0.1", 4246)
    assert settings_of("hubble: {ui: {listenAddress: ':9'}}").ui == HostPort("", 9)
    with pytest.raises(WardmeshError) as caught:
        settings_of("hubble: {ui: {listenAddress: 'x:y'}}")
    assert caught.value.where == "hubble.ui.listenAddress"


def test_the_relay_of_this_host_is_asked_as_it_listens() -> None:
    assert relay_access(settings_of(""), "", "") == Access("127.0.0.1:4245")
    everywhere = settings_of("hubble: {relay: {listenAddress: ':5'}}")
    assert relay_access(everywhere, "", "").target == "127.0.0.1:5"
    six = settings_of("hubble: {relay: {listenAddress: '[fd00::1]:5'}}")
    assert relay_access(six, "", "").target == "[fd00::1]:5"
    tls = settings_of("hubble: {tls: {certFile: /c, keyFile: /k, clientCaFile: /ca}}")
    found = relay_access(tls, "db1", "lab")
    assert found.tls and (found.ca, found.cert, found.key) == (Path("/ca"), Path("/c"), Path("/k"))
    assert found.server_name == "db1.lab.hubble-grpc.cilium.io"


# --- TLS ---


def ask(page: LivePage, context: ssl.SSLContext) -> int:
    link = http.client.HTTPSConnection("localhost", page.port, timeout=20, context=context)
    with contextlib.closing(link):
        link.request("GET", "/api/v1/status", headers={"Host": "any.name"})
        return link.getresponse().status


def context_of(authority: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def test_a_client_ca_lets_its_own_in_and_nobody_else(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    tls = Tls(*authority.issue("localhost"), authority.path)
    with live_page(tls=tls, gate=Gate((), certified=True)) as page:
        assert ask(page, context_of(authority, authority.issue("operator"))) == 200
        for context in (context_of(authority), context_of(authority, other.issue("stranger"))):
            with pytest.raises(OSError):
                ask(page, context)
        with pytest.raises((OSError, http.client.HTTPException)):
            page.ask("/")  # plain text
        with pytest.raises(ssl.SSLError):
            ask(page, context_of(other))
        assert ask(page, context_of(authority, authority.issue("operator"))) == 200


def test_a_certificate_that_was_revoked_opens_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    lost, kept = authority.issue("lost"), authority.issue("kept")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(lost[0].read_text())).hexdigest()
    tls = Tls(*authority.issue("localhost"), authority.path)
    with live_page(tls=tls, gate=Gate((), certified=True, revoked=[digest])) as page:
        assert ask(page, context_of(authority, kept)) == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(page, context_of(authority, lost))


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    with live_page(tls=Tls(*authority.issue("localhost"))) as page:
        context = page.listener._context
        assert context is not None and context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_without_a_client_ca_only_this_host_and_members_are_answered(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    with live_page(tls=Tls(*authority.issue("localhost"))) as page:
        assert ask(page, context_of(authority)) == 200
        admits = page.listener.verify_request
        assert not admits(None, ("203.0.113.9", 1))
        page.gate = Gate(
            [address for member in fleet().members for address in member.addresses], certified=False
        )
        assert admits(None, ("10.0.0.1", 1)) and admits(None, ("::ffff:10.0.0.1", 1, 0, 0))
        assert not admits(None, ("10.0.0.99", 1)) and not admits(None, ("fe80::1%eth0", 1, 0, 2))


def test_a_client_that_does_not_shake_hands_holds_nobody_up(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    tls = Tls(*authority.issue("localhost"))
    with (
        live_page(tls=tls, lifetime=2.0) as page,
        socket.create_connection(("127.0.0.1", page.port), 20),
    ):
        assert eventually(lambda: len(page.listener._open) == 1)
        assert ask(page, context_of(authority)) == 200
        assert eventually(lambda: not page.listener._open)


def test_replaced_certificates_are_taken_in(tmp_path: Path) -> None:
    first, second = Authority(tmp_path, "ca"), Authority(tmp_path, "new")
    cert, key = first.issue("localhost")
    with live_page(tls=Tls(cert, key)) as page:
        assert ask(page, context_of(first)) == 200
        cert.write_bytes(b"half")  # a file that is being written changes nothing
        assert ask(page, context_of(first)) == 200
        second.issue("localhost")

        def taken() -> bool:
            with contextlib.suppress(ssl.SSLError):
                return ask(page, context_of(second)) == 200
            return False

        assert eventually(taken)


def test_files_of_tls_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_bytes(b"nonsense")
    for path in (bad, tmp_path / "none.pem"):
        with pytest.raises(WardmeshError) as caught:
            LivePage(tls=Tls(path, path))
        assert str(path) in caught.value.where


# --- the whole ---


@pytest.fixture
def root(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "root")
    paths.etc.mkdir(parents=True)
    paths.fleet.write_bytes(fleet_bytes())
    return paths


def test_an_address_that_is_taken_is_told(root: Paths) -> None:
    with live_page() as page, pytest.raises(WardmeshError) as caught:
        Page(root, Asked(f"127.0.0.1:{page.port}"), lambda _fleet: "db1")
    assert "cannot serve the page" in caught.value.what


def test_who_joins_the_fleet_may_ask(root: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("wardmesh.observe.ui.service._LOOK", 0.05)
    page = Page(root, Asked("127.0.0.1:0", Access("unix:/nowhere")), lambda _fleet: "db1")
    page.start()
    runs = threading.Thread(target=page.run, daemon=True)
    runs.start()
    try:
        assert not page._gate.admits("ipv4:10.0.0.77:1")
        more = {"late": ("10.0.0.77", dict[str, str]())}
        root.fleet.write_bytes(fleet_bytes(more, 2))
        assert eventually(lambda: page._gate.admits("ipv4:10.0.0.77:1"))
        assert not page._gate.admits("ipv4:10.0.0.1:1")
        root.fleet.write_bytes(b"broken")
        assert page._gate.admits("ipv4:10.0.0.77:1")
    finally:
        page.stop()
        runs.join(10)
        page.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("build_zipapp", REPO / "agent/build_zipapp.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target = tmp_path_factory.mktemp("bundle") / "wardmesh.pyz"
    target.write_bytes(module.build(REPO))
    return target


@contextlib.contextmanager
def running(bundle: Path, root: Paths, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`wardmesh ui` in a process of its own."""
    argv = [sys.executable, "-I", str(bundle), "--root", str(root.root), "ui", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_one_file_serves_the_page_and_ends_when_it_is_told(
    bundle: Path, root: Paths, tmp_path: Path
) -> None:
    member = Served(tmp_path, own="db1")
    member.add(event(1))
    try:
        with running(bundle, root, "--listen", "127.0.0.1:0", "--server", member.target) as process:
            assert process.stdout is not None
            line = next(text for text in process.stdout if "shows the flows" in text)
            match = re.search(r"http://127\.0\.0\.1:([0-9]+)/", line)
            assert match is not None
            port = int(match[1])

            def body(path: str) -> str:
                link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                with contextlib.closing(link):
                    link.request("GET", path)
                    return link.getresponse().read().decode()

            assert "<title>wardmesh</title>" in body("/")
            assert "Cytoscape" in body("/static/cytoscape.LICENSE.txt")
            assert eventually(lambda: '"fromAddress":"10.0.0.1:40001"' in body("/api/v1/updates"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    finally:
        member.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--listen", "0.0.0.0:4246"), "not served in plain text"),
        (("--listen", "10.0.0.1:4246"), "not served in plain text"),
        (("--listen", "nonsense:x"), "is not HOST:PORT"),
        (("--tls",), "speaks about a --server"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(
    bundle: Path, root: Paths, words: tuple[str, ...], told: str
) -> None:
    with running(bundle, root, *words) as process:
        out, _nothing = process.communicate(timeout=60)
    assert process.returncode == 78 and told in out
