# SPDX-License-Identifier: Apache-2.0
"""The host's side: a key that stays, and certificates that are checked before they replace others."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from tests.unit.agent.daemon.fakes import make_host, map_bytes

from wardmesh.cli.main import main
from wardmesh.host.certificates import install, request
from wardmesh.host.paths import Paths
from wardmesh.model.authority import Authority, Identity, issue, load_authority, make_authority, read_request
from wardmesh.model.certificates import server_name
from wardmesh.model.errors import WardmeshError

NAME = server_name("web1", "lab")


def authority() -> Authority:
    return load_authority(*make_authority("lab", time.time()), (), time.time(), "ca")


def signed(ca: Authority, csr: bytes, name: str = NAME, now: float | None = None) -> bytes:
    who = Identity("web1", (name,))
    return issue(ca, read_request(csr, "web1"), who, time.time() if now is None else now)


def test_the_key_is_born_once_and_nobody_else_reads_it(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    dry = request(paths, "web1", dry_run=True)
    assert (dry.csr, dry.created, paths.hubble_key.exists()) == (b"", True, False)
    first = request(paths, "web1", dry_run=False)
    pem = paths.hubble_key.read_bytes()
    assert first.created and b"PRIVATE" not in first.csr
    assert stat.S_IMODE(paths.hubble_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.hubble_key.parent.stat().st_mode) == 0o700
    again = request(paths, "web1", dry_run=True)
    assert again.csr and not again.created and paths.hubble_key.read_bytes() == pem


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    paths, ca = Paths(tmp_path), authority()
    cert = signed(ca, request(paths, "web1", dry_run=False).csr)
    paths.hubble_key.chmod(mode)
    for call in (
        lambda: request(paths, "web1", dry_run=False),
        lambda: install(paths, cert, ca.bundle, NAME, time.time(), dry_run=False),
    ):
        with pytest.raises(WardmeshError) as caught:
            call()
        assert "permissions" in str(caught.value)
    assert not paths.hubble_cert.exists()


def test_a_damaged_key_is_named_and_not_shown(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    request(paths, "web1", dry_run=False)
    pem = paths.hubble_key.read_bytes()
    paths.hubble_key.write_bytes(pem[:100])
    with pytest.raises(WardmeshError) as caught:
        request(paths, "web1", dry_run=False)
    assert "hubble.key" in str(caught.value) and pem[40:90].decode() not in str(caught.value)


def test_what_is_refused_leaves_the_last_good_one(tmp_path: Path) -> None:
    paths, ca, foreign, now = Paths(tmp_path), authority(), authority(), time.time()
    csr = request(paths, "web1", dry_run=False).csr
    good = signed(ca, csr)
    assert install(paths, good, ca.bundle, NAME, now, dry_run=True)[0] is True
    assert not paths.hubble_cert.exists()
    assert install(paths, good, ca.bundle, NAME, now, dry_run=False)[0] is True
    assert install(paths, good, ca.bundle, NAME, now, dry_run=False)[0] is False
    other = Paths(tmp_path / "other")
    wrong = [
        (good[: len(good) // 2], ca.bundle),
        (good, ca.bundle[:-1]),
        (good, ca.bundle[:-40]),
        (b"", ca.bundle),
        (good, b""),
        (signed(foreign, csr), ca.bundle),
        (signed(ca, csr, server_name("web2", "lab")), ca.bundle),
        (signed(ca, csr, now=now - 400 * 86400), ca.bundle),
        (signed(ca, csr, now=now + 86400), ca.bundle),
        (signed(ca, request(other, "web1", dry_run=False).csr), ca.bundle),
    ]
    refused = 0
    for chain, bundle in wrong:
        try:
            install(paths, chain, bundle, NAME, now, dry_run=False)
        except WardmeshError as error:
            refused += 1
            assert error.remedy
        else:
            assert (chain, bundle) == (good, ca.bundle[:-1])  # a missing newline harms nobody
            install(paths, good, ca.bundle, NAME, now, dry_run=False)
        assert paths.hubble_cert.read_bytes() == good and paths.fleet_ca.read_bytes() == ca.bundle
    assert refused == len(wrong) - 1
    assert sorted(path.name for path in paths.hubble_cert.parent.iterdir()) == ["ca.crt", "hubble.crt"]


def test_without_a_key_nothing_is_installed(tmp_path: Path) -> None:
    with pytest.raises(WardmeshError) as caught:
        install(Paths(tmp_path), b"x", b"x", NAME, time.time(), dry_run=False)
    assert "certificate-request" in caught.value.remedy


# --- the verbs ---


def run(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, dict[str, object]]:
    code = main(["--root", str(root), "node", *words, "--json"])
    found = capsys.readouterr()
    return code, json.loads(found.out)


def test_the_verbs_ask_and_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_host(tmp_path, map_bytes(3, ("node1", "node2")))
    code, dry = run(capsys, tmp_path, "certificate-request", "--dry-run")
    assert (code, dry["changed"], dry["csr"], dry["certificate"]) == (0, True, "", "")
    code, asked = run(capsys, tmp_path, "certificate-request")
    assert code == 0 and asked["changed"] is True and asked["member"]
    member = str(asked["member"])
    ca = authority()
    fleet = json.loads(paths.fleet.read_bytes())
    name = server_name(member, fleet["cluster"]["name"])
    key = read_request(str(asked["csr"]).encode(), member)
    cert = issue(ca, key, Identity(member, (name,)), time.time())
    (tmp_path / "c").write_bytes(cert)
    (tmp_path / "a").write_bytes(ca.bundle)
    files = str(tmp_path / "c"), str(tmp_path / "a")
    code, done = run(capsys, tmp_path, "certificate-install", *files, "--dry-run")
    assert code == 0 and done["changed"] is True and not paths.hubble_cert.exists()
    code, done = run(capsys, tmp_path, "certificate-install", *files)
    assert code == 0 and done["changed"] is True and done["names"] == [name]
    code, done = run(capsys, tmp_path, "certificate-install", *files)
    assert code == 0 and done["changed"] is False
    code, asked = run(capsys, tmp_path, "certificate-request", "--dry-run")
    assert (asked["changed"], asked["certificate"], asked["ca"]) == (False, cert.decode(), ca.bundle.decode())
    (tmp_path / "c").write_bytes(cert[:200])
    code, _failed = run(capsys, tmp_path, "certificate-install", *files)
    assert code != 0 and paths.hubble_cert.read_bytes() == cert


def test_a_host_outside_of_a_fleet_asks_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, dry = run(capsys, tmp_path, "certificate-request", "--dry-run")
    assert (code, dry["changed"], dry["csr"]) == (0, True, "")
    code, failed = run(capsys, tmp_path, "certificate-request")
    assert code != 0 and "no member" in str(failed) and not Paths(tmp_path).hubble_key.exists()
