# SPDX-License-Identifier: Apache-2.0
"""The role agent by the real ansible-playbook, with a stand-in for the agent, below a folder of the test.

What the real agent and systemd do on a host is proved in the lab. Folders are to be root's: it needs root.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.loading import REPO
from tests.playing import play

UNITS = ("wardmesh.service", "wardmesh-boot.service", "wardmesh-wireguard@.service")
PLACES = ('"/etc/', '"/usr/local/', '"/var/lib/')
PLAY = """
- hosts: all
  gather_facts: false
  roles: [wardmesh.fleet.agent]
  post_tasks:
    - ansible.builtin.copy:
        dest: "{{ inventory_dir }}/result.json"
        content: "{{ wardmesh_agent_installed | to_json }}"
        mode: "0600"
      check_mode: false
"""
ROLLBACK = "- hosts: all\n  gather_facts: false\n  tasks: [wardmesh.fleet.agent: {state: rollback}]\n"
BUILDER = """
import io, zipfile
from pathlib import Path

def build(root):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), (root / "agent/standing_agent.py").read_bytes())
    return b"#!/usr/bin/python3 -I\\n" + buffer.getvalue()
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >> {root}/asked
case "$1" in
is-*) test -e {root}/"$1";;
enable) touch {root}/is-enabled;;
restart) touch {root}/is-active;;
esac
"""


class Host:
    """This machine, as if it were below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        self.place = folder / "collections/ansible_collections/wardmesh/fleet"
        self._collection()
        for name in ("etc/systemd/system", "usr/local/bin", "usr/local/lib", "var/lib"):
            (self.root / name).mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin/systemctl").write_text(SYSTEMCTL.format(root=self.root))
        (folder / "bin/systemctl").chmod(0o755)

    def _collection(self) -> None:
        """The collection with a builder of the stand-in, and other paths in what runs on the host."""
        (self.place / "plugins").mkdir(parents=True)
        (self.place / "agent").mkdir()
        for part in ("roles", "galaxy.yml", "meta"):
            (self.place / part).symlink_to(REPO / part)
        for part in ("action", "plugin_utils", "doc_fragments"):
            (self.place / "plugins" / part).symlink_to(REPO / "plugins" / part)
        for part in ("modules/agent.py", "module_utils/_agent.py", "module_utils/_bundle.py"):
            text = (REPO / "plugins" / part).read_text()
            for place in PLACES:
                text = text.replace(place, f'"{self.root}{place[1:]}')
            (self.place / "plugins" / part).parent.mkdir(exist_ok=True)
            (self.place / "plugins" / part).write_text(text)
        (self.place / "agent/systemd").symlink_to(REPO / "agent/systemd")
        (self.place / "agent/build_zipapp.py").write_text(BUILDER)
        self.build("1")

    def build(self, version: str) -> str:
        """Another version of the stand-in; its digest."""
        text = (REPO / "tests/unit/roles/standing_agent.py").read_text()
        (self.place / "agent/standing_agent.py").write_text(f"{text}# {version}\n")
        code = (
            "import sys, pathlib; sys.path.insert(0, sys.argv[1] + '/agent'); import build_zipapp, hashlib\n"
        )
        code += "print(hashlib.sha256(build_zipapp.build(pathlib.Path(sys.argv[1]))).hexdigest())"
        words = [sys.executable, "-B", "-c", code, str(self.place)]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def seen(self) -> dict[str, Any]:
        """What preflight would see."""
        names = {"agent": "usr/local/lib/wardmesh/current", "config": "etc/wardmesh/config.yaml"}
        names.update({unit: f"etc/systemd/system/{unit}" for unit in UNITS})
        paths = {name: self.root / path for name, path in names.items()}
        return {
            "packages": [],
            "active": (self.root / "is-active").exists()
            and (self.root / "is-enabled").exists()
            and not (self.root / "usr/local/lib/wardmesh/unfinished").exists(),
            "node": {"public_key": "key" if (self.root / "key").exists() else ""},
            "digests": {
                name: hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
                for name, path in paths.items()
            },
        }

    def play(self, text: str, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        base = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "wardmesh_preflight_result": self.seen(),
        }
        inventory = {"all": {"hosts": {"h1": {**base, **variables}}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (self.folder / "play.yml").write_text(text)
        (self.folder / "result.json").unlink(missing_ok=True)
        (self.root / "asked").unlink(missing_ok=True)
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "WARDMESH_TEST_ROOT": str(self.root),
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
        }
        return play(self.folder, *words, environment=environment)

    def result(self, *words: str, **variables: Any) -> dict[str, Any]:
        """What the module returned in a run of the role."""
        done = self.play(PLAY, *words, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    def asked(self) -> list[str]:
        """What systemd was asked for in the last run, without questions."""
        lines = (self.root / "asked").read_text().splitlines() if (self.root / "asked").exists() else []
        return [line for line in lines if not line.startswith("is-")]

    def files(self) -> dict[str, bytes | str]:
        """Everything below the folder, but for the notes of the stand-ins."""
        return {
            str(path.relative_to(self.root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
            for path in self.root.rglob("*")
            if (path.is_symlink() or path.is_file()) and path.name != "asked"
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


EVERYTHING = ["agent", "config", "units", "folders", "key", "service"]


def test_check_mode_says_what_the_run_then_does_and_the_next_run_does_not_ask_the_host(host: Host) -> None:
    before = host.files()
    predicted = host.result("--check", "--diff")
    assert host.files() == before and host.asked() == []
    real = host.result()
    assert predicted["parts"] == real["parts"] == EVERYTHING
    assert (predicted["node"]["public_key"], real["node"]["public_key"]) == ("", "key")
    assert host.asked() == ["daemon-reload", "enable wardmesh.service", "restart wardmesh.service"]
    assert os.access(host.root / "usr/local/bin/wardmesh", os.X_OK)
    assert (host.root / "var/lib/wardmesh").stat().st_mode & 0o777 == 0o700
    again = host.result()
    assert (again["changed"], again["parts"]) == (False, [])
    assert not (host.root / "asked").exists(), "nothing was run on the host"


def test_the_agent_comes_back_in_no_answer(host: Host) -> None:
    """Its bytes go with the call: a megabyte for each host, were they told again."""
    told = host.play(PLAY, "--diff", "-vvv").stdout
    sent = (host.root / "usr/local/lib/wardmesh/current").read_bytes()
    assert base64.b64encode(sent).decode()[:60] not in told
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in told
    assert "+a key of its own" in told


def test_only_what_differs_is_changed_and_the_service_knows(host: Host) -> None:
    host.result()
    more = {"wardmesh_config": {"debug": {"enabled": True}}}
    assert host.result("--check", **more)["parts"] == host.result(**more)["parts"] == ["config", "service"]
    assert host.asked() == ["restart wardmesh.service"]
    (host.root / "is-active").unlink()
    stopped = host.result(**more)
    assert (stopped["parts"], stopped["renewed"]) == (["service"], False)
    (host.root / "usr/local/lib/wardmesh/current").write_bytes(b"damaged")
    assert host.result(**more)["parts"] == ["agent", "service"]
    assert host.result(**more)["changed"] is False


@pytest.mark.parametrize("words", [(), ("--check",)])
def test_a_configuration_that_the_new_agent_refuses_changes_nothing(
    host: Host, words: tuple[str, ...]
) -> None:
    host.result()
    host.build("2")
    before = host.files()
    done = host.play(PLAY, *words, wardmesh_config={"nonsense": True})
    assert done.returncode != 0
    assert "nonsense: unknown key (remedy: correct it)" in done.stdout
    assert host.files() == before and host.asked() == []


def test_the_agent_before_is_kept_and_comes_back(host: Host) -> None:
    agents = [host.build("1")]
    host.result()
    for version in ("2", "3"):
        agents.append(host.build(version))
        assert host.result()["parts"] == ["agent", "service"]
    kept = {path.name for path in (host.root / "usr/local/lib/wardmesh").glob("*.pyz")}
    assert kept == {f"wardmesh-{digest[:12]}.pyz" for digest in agents[1:]}
    for words in (("--check",), ()):
        assert host.seen()["digests"]["agent"] == agents[2]
        assert "changed=1" in host.play(ROLLBACK, *words).stdout
    assert host.seen()["digests"]["agent"] == agents[1]


def test_what_was_cut_short_is_ended_by_the_next_run(host: Host) -> None:
    """Every file is as it should be by then, and the agent runs: the one before."""
    host.result()
    host.build("2")
    (host.root / "full").touch()
    done = host.play(PLAY)
    assert done.returncode != 0 and "No space left" in done.stdout
    (host.root / "full").unlink()
    assert host.result("--check")["parts"] == host.result()["parts"] == ["service"]
    assert host.asked() == ["daemon-reload", "restart wardmesh.service"]
    assert host.result()["changed"] is False


def test_where_it_cannot_be_written_nothing_else_is(host: Host) -> None:
    (host.root / "usr/local/lib/wardmesh").write_text("in the way")
    done = host.play(PLAY)
    assert done.returncode != 0 and "remedy" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout
    assert set(host.files()) == {"usr/local/lib/wardmesh"}


def test_where_packages_are_missing_check_mode_asks_no_agent(host: Host) -> None:
    lacking = {**host.seen(), "packages": ["python3-yaml"]}
    role = PLAY.replace(
        "roles: [wardmesh.fleet.agent]", "tasks: [wardmesh.fleet.agent: {config: x, seen: S}]"
    )
    role = role.replace("seen: S", "seen: '{{ lacking }}'").split("  post_tasks")[0]
    broken = (
        (REPO / "tests/unit/roles/standing_agent.py").read_text().replace("import json", "import nothing")
    )
    (host.place / "agent/standing_agent.py").write_text(broken)
    assert "changed=1" in host.play(role, "--check", lacking=lacking).stdout
    assert host.play(role, lacking=lacking).returncode != 0
