# SPDX-License-Identifier: Apache-2.0
"""The CA's folder on the controller: who gets a certificate, what is refused, and no key leaves its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fleets import numbered
from tests.loading import load
from tests.playing import play as run_play

from wardmesh.model.authority import (
    DAY,
    Identity,
    issue,
    load_authority,
    make_authority,
    new_key,
    private_pem,
    request_for,
)
from wardmesh.model.certificates import leaf_of, read_certificates, server_name
from wardmesh.model.errors import WardmeshError

module = load("plugins/plugin_utils/_authority.py")
FLEET = numbered(3, 2)
NOW = time.time()
HOSTS = ("h1", "h2", "h3")


class Hosts:
    """What hosts report, and what they have installed."""

    def __init__(self, *names: str) -> None:
        self.keys = {name: new_key() for name in names}
        self.has: dict[str, dict[str, str]] = {name: {"certificate": "", "ca": ""} for name in names}

    def requests(self) -> dict[str, dict[str, str]]:
        return {
            name: {"csr": request_for(key, name).decode(), **self.has[name]}
            for name, key in self.keys.items()
        }

    def install(self, plan: Any) -> None:
        for name in plan.pending:
            self.has[name] = {"certificate": plan.certificates[name], "ca": plan.ca}


def folder(path: Path, *, check: bool = False) -> Any:
    return module.Folder(str(path), lambda data: data, check=check)


def sign(path: Path, hosts: Hosts, now: float = NOW, *, check: bool = False) -> Any:
    return module.sign_fleet(folder(path, check=check), FLEET, hosts.requests(), now, 180, check=check)


def modes(path: Path) -> dict[str, str]:
    return {item.name: f"{item.stat().st_mode & 0o777:o}" for item in (path, *path.rglob("*"))}


def test_the_first_run_makes_the_ca_and_the_second_changes_nothing(tmp_path: Path) -> None:
    path, hosts = tmp_path / "ca", Hosts(*HOSTS)
    dry = sign(path, hosts, check=True)
    assert dry.changed and dry.predicted == dry.pending == list(HOSTS) and not path.exists()
    plan = sign(path, hosts)
    assert plan.changed and plan.pending == list(HOSTS) and plan.predicted == []
    assert modes(path) == {"ca": "700", "ca.key": "600", "ca.crt": "644", ".gitignore": "644"}
    assert (path / ".gitignore").read_text().splitlines()[-1] == "*"
    found = leaf_of(read_certificates(plan.certificates["h2"].encode(), "x")[0])
    assert found.names == (server_name("h2", "c"), "h2") and found.addresses == ("10.0.0.2",)
    hosts.install(plan)
    for check in (True, False):
        again = sign(path, hosts, check=check)
        assert (again.changed, again.pending, again.lines) == (False, [], [])


def test_who_needs_another_certificate_gets_one_and_nobody_else(tmp_path: Path) -> None:
    path, hosts = tmp_path / "ca", Hosts(*HOSTS)
    hosts.install(sign(path, hosts))
    hosts.keys["h2"] = new_key()
    hosts.has["h3"]["ca"] = ""
    dry = sign(path, hosts, check=True)
    assert (dry.predicted, dry.pending, dry.changed) == (["h2"], ["h2", "h3"], True)
    plan = sign(path, hosts)
    assert plan.pending == ["h2", "h3"] and plan.certificates["h3"] == hosts.has["h3"]["certificate"]
    hosts.install(plan)
    later = sign(path, hosts, NOW + 121 * DAY)
    assert later.pending == list(HOSTS) and all("ends in" in line for line in later.lines)


def test_a_request_for_another_host_signs_nothing_at_all(tmp_path: Path) -> None:
    path, hosts = tmp_path / "ca", Hosts(*HOSTS)
    asked = hosts.requests()
    for wrong in (request_for(new_key(), "h1").decode(), "nonsense", ""):
        bad = {**asked, "h2": {**asked["h2"], "csr": wrong}}
        with pytest.raises(WardmeshError) as caught:
            module.sign_fleet(folder(path), FLEET, bad, NOW, 180, check=False)
        assert caught.value.where == "h2"
    stranger = {"h9": {"csr": request_for(new_key(), "h9").decode(), "certificate": "", "ca": ""}}
    with pytest.raises(module.AuthorityError, match="h9: no member"):
        module.sign_fleet(folder(path), FLEET, stranger, NOW, 180, check=False)


def damaged_trust(path: Path) -> None:
    (path / "trusted").mkdir()
    (path / "trusted/x.crt").write_bytes(b"x")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path: (path / "ca.key").unlink(), "ca.key is missing"),
        (lambda path: (path / "ca.crt").unlink(), "ca.crt is missing"),
        (lambda path: path.chmod(0o755), "open to others"),
        (lambda path: path.chmod(0o701), "open to others"),
        (lambda path: (path / "ca.key").chmod(0o640), "open to others"),
        (lambda path: (path / "ca.key").write_bytes(private_pem(new_key())), "not the key"),
        (lambda path: (path / "ca.key").write_bytes(b"x"), "not a private key"),
        (lambda path: os.chown(path / "ca.key", 12345, -1), "open to others"),
        (
            lambda path: (path / "trusted").mkdir() or (path / "trusted/x.crt").write_bytes(b"x"),
            "not a certif",
        ),
    ],
)
def test_a_ca_that_is_not_as_it_should_be_signs_nothing(tmp_path: Path, break_it: Any, words: str) -> None:
    path, hosts = tmp_path / "ca", Hosts(*HOSTS)
    sign(path, hosts)
    break_it(path)
    before = sorted(path.rglob("*"))
    with pytest.raises((module.AuthorityError, WardmeshError), match=words):
        sign(path, hosts)
    assert sorted(path.rglob("*")) == before


def test_a_key_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path, hosts = tmp_path / "ca", Hosts(*HOSTS)
    sign(path, hosts)
    (path / "ca.key").rename(tmp_path / "elsewhere")
    (path / "ca.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(module.AuthorityError, match="open to others"):
        sign(path, hosts)


def test_a_ca_is_replaced_in_three_runs_and_every_host_is_believed_throughout(tmp_path: Path) -> None:
    """First both are believed, then the new one signs, then the old one is forgotten."""
    path, hosts = tmp_path / "ca", Hosts(*HOSTS)
    hosts.install(sign(path, hosts))
    certificate, key = make_authority("c", NOW)
    (path / "trusted").mkdir()
    (path / "trusted/new.crt").write_bytes(certificate)
    plan = sign(path, hosts)
    assert plan.pending == list(HOSTS) and not plan.changed  # no certificate is new, the bundle is
    assert plan.certificates == {name: row["certificate"] for name, row in hosts.has.items()}
    hosts.install(plan)
    old = (path / "ca.crt").read_bytes()
    (path / "trusted/new.crt").unlink()
    (path / "trusted/old.crt").write_bytes(old)
    (path / "ca.crt").write_bytes(certificate)
    (path / "ca.key").write_bytes(key)
    plan = sign(path, hosts)
    assert plan.changed and all("another CA" in line for line in plan.lines)
    assert len(read_certificates(plan.ca.encode(), "x")) == 2
    hosts.install(plan)
    (path / "trusted/old.crt").unlink()
    plan = sign(path, hosts)
    assert plan.pending == list(HOSTS) and not plan.changed and plan.ca.encode() == certificate
    hosts.install(plan)
    assert sign(path, hosts).pending == []


def test_an_operators_own_ca_is_used_as_it_is(tmp_path: Path) -> None:
    path, hosts = tmp_path / "ca", Hosts("h1")
    path.mkdir(mode=0o700)
    certificate, key = make_authority("corporate", NOW)
    (path / "ca.crt").write_bytes(certificate)
    (path / "ca.key").write_bytes(key)
    (path / "ca.key").chmod(0o600)
    plan = sign(path, hosts)
    assert plan.ca.encode() == certificate and (path / "ca.key").read_bytes() == key


# --- the CA's key is elsewhere ---


def test_without_the_key_requests_are_left_and_certificates_awaited(tmp_path: Path) -> None:
    path, hosts = tmp_path / "ca", Hosts("h1", "h2")
    certificate, key = make_authority("corporate", NOW)
    path.mkdir(mode=0o700)
    with pytest.raises(module.AuthorityError, match=r"ca\.crt is missing"):
        module.await_signed(folder(path), FLEET, hosts.requests(), NOW, check=False)
    (path / "ca.crt").write_bytes(certificate)

    def run(*, check: bool = False) -> Any:
        return module.await_signed(folder(path, check=check), FLEET, hosts.requests(), NOW, check=check)

    assert run(check=True).changed and not (path / "requests").exists()
    plan = run()
    assert plan.changed and plan.pending == [] and len(plan.warnings) == 2
    assert sorted(item.name for item in (path / "requests").iterdir()) == ["h1.csr", "h2.csr"]
    plan = run()
    assert not plan.changed and len(plan.warnings) == 2
    ca = load_authority(certificate, key, (), NOW, "ca")
    (path / "signed").mkdir()
    who = module.identities(FLEET)["h1"]
    (path / "signed/h1.crt").write_bytes(issue(ca, hosts.keys["h1"].public_key(), who, NOW))
    (path / "signed/h2.crt").write_bytes(issue(ca, hosts.keys["h1"].public_key(), who, NOW))
    plan = run()
    assert plan.pending == ["h1"] and "another key" in plan.warnings[0]
    hosts.install(plan)
    assert run().pending == [] and (path / "ca.key").exists() is False
    hosts.keys["h1"] = new_key()
    plan = run()
    assert plan.changed and plan.pending == [] and len(plan.warnings) == 2


# --- clients ---


def test_a_clients_certificate_is_no_members_and_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "ca"
    plan = module.sign_client(folder(path), "c", "alice", NOW, 90)
    assert plan.changed and modes(path / "clients")["alice.key"] == "600"
    leaf = leaf_of(read_certificates((path / "clients/alice.crt").read_bytes(), "x")[0])
    assert leaf.names == ("alice.client.wardmesh",)
    assert (path / "clients/ca.crt").read_text() == plan.ca
    assert not module.sign_client(folder(path), "c", "alice", NOW, 90).changed
    key = (path / "clients/alice.key").read_bytes()
    assert module.sign_client(folder(path), "c", "alice", NOW + 61 * DAY, 90).changed
    assert (path / "clients/alice.key").read_bytes() == key
    (path / "clients/alice.key").chmod(0o644)
    with pytest.raises(module.AuthorityError, match="open to others"):
        module.sign_client(folder(path), "c", "alice", NOW, 90)


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "A", "x.lab.hubble-grpc.cilium.io", "-a", "a" * 49, "a\n"]
)
def test_names_of_clients_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(module.AuthorityError):
        module.sign_client(folder(tmp_path / "ca"), "c", name, NOW, 90)
    assert not (tmp_path / "ca").exists()


# --- by Ansible ---

PLAY = """
- hosts: wardmesh
  gather_facts: false
  tasks:
    - name: Requests
      ansible.builtin.set_fact:
        wardmesh_certificate_request: >-
          {{ lookup('ansible.builtin.file', inventory_dir ~ '/' ~ inventory_hostname ~ '.json') | from_json }}
      changed_when: false
    - name: Sign
      wardmesh.fleet.fleet_ca: {dir: "{{ inventory_dir }}/ca", map: "{{ inventory_dir }}/fleet.json"}
      run_once: true
      register: signed
    - name: Keep
      ansible.builtin.debug: {msg: "pending {{ signed.pending }} predicted {{ signed.predicted }}"}
      run_once: true
"""


def play(path: Path, text: str, *words: str) -> tuple[int, str]:
    (path / "play.yml").write_text(text)
    done = run_play(path, "--diff", "-vvv", *words)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def controller(tmp_path: Path) -> Path:
    """An inventory of three hosts on this machine, their map, and their requests."""
    from tests.loading import load as again

    compiler = again("plugins/plugin_utils/_compile.py")
    facts = {
        name: {"key": member.key, "key_generation": 1, "addresses": [str(member.addresses[0])]}
        for name, member in ((member.name, member) for member in FLEET.members)
    }
    merged, _warnings = compiler.merge(compiler.empty_registry(), facts, [])
    (tmp_path / "fleet.json").write_bytes(compiler.compile_map(merged, "c", 1)[1])
    hosts = {name: {"ansible_connection": "local"} for name in HOSTS}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"wardmesh": {"hosts": hosts}}))
    for name, asked in Hosts(*HOSTS).requests().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(asked))
    return tmp_path


def test_ansible_signs_once_and_shows_no_key(controller: Path) -> None:
    code, said = play(controller, PLAY, "--check")
    assert code == 0, said
    assert "predicted ['h1', 'h2', 'h3']" in said and not (controller / "ca").exists()
    code, said = play(controller, PLAY)
    assert code == 0 and "pending ['h1', 'h2', 'h3'] predicted []" in said, said
    lines = (controller / "ca/ca.key").read_text().splitlines()[1:-1]
    assert lines and not [line for line in lines if line in said]
    assert "PRIVATE KEY" not in said and "+h2: it has none" in said
    (controller / "ca").chmod(0o750)
    code, said = play(controller, PLAY)
    assert code != 0 and "open to others" in said


def test_before_the_first_rollout_check_mode_predicts_everybody(controller: Path) -> None:
    (controller / "fleet.json").unlink()
    for name in HOSTS:
        (controller / f"{name}.json").write_text(json.dumps({"csr": "", "certificate": "", "ca": ""}))
    code, said = play(controller, PLAY, "--check")
    assert code == 0 and "pending ['h1', 'h2', 'h3'] predicted ['h1', 'h2', 'h3']" in said, said
    code, said = play(controller, PLAY)
    assert code != 0 and not (controller / "ca").exists()


def test_a_key_in_ansible_vault_signs(controller: Path) -> None:
    certificate, key = make_authority("c", NOW)
    (controller / "ca").mkdir(mode=0o700)
    (controller / "ca/ca.crt").write_bytes(certificate)
    (controller / "ca/ca.key").write_bytes(key)
    (controller / "password").write_text("secret\n")
    vault = Path(sys.executable).parent / "ansible-vault"
    words = ["encrypt", "--vault-password-file", str(controller / "password"), str(controller / "ca/ca.key")]
    subprocess.run([str(vault), *words], check=True, capture_output=True, timeout=60)
    assert (controller / "ca/ca.key").read_bytes().startswith(b"$ANSIBLE_VAULT")
    code, said = play(controller, PLAY, "--vault-password-file", str(controller / "password"))
    assert code == 0 and "pending ['h1', 'h2', 'h3']" in said, said
    assert (controller / "ca/ca.key").read_bytes().startswith(b"$ANSIBLE_VAULT")
    code, said = play(controller, PLAY)
    assert code != 0


def test_identities_are_those_of_the_map() -> None:
    assert module.identities(FLEET)["h1"] == Identity("h1", (server_name("h1", "c"), "h1"), ("10.0.0.1",))
