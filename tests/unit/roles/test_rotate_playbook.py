# SPDX-License-Identifier: Apache-2.0
"""rotate_keys.yml by the real ansible-playbook over stand-ins of the agent: who is asked, when it stops."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest
import yaml
from tests.loading import REPO, load
from tests.playing import play

compiler = load("plugins/plugin_utils/_compile.py")
NAMES = ["node1", "node2", "node3"]
AGENT = REPO / "tests/unit/roles/rotating_agent.py"
_PYTHON = """#!/bin/sh
export WARDMESH_TEST_HOST={name} WARDMESH_TEST_FOLDER={folder} PYTHONPATH={path}
exec {python} "$@"
"""


class Controller:
    """An inventory of stand-ins, all of them in one fleet."""

    def __init__(self, folder):
        self.folder = folder
        self._collection()
        members = {}
        for number, name in enumerate(NAMES, 1):
            key = base64.b64encode(number.to_bytes(32, "big")).decode()
            members[name] = {"key": key, "key_generation": 1, "addresses": [f"10.0.0.{number}"]}
            self.set(name, {"map": "", "digest": "", "active": False, "staged": "", "key": key})
            self._script(
                f"{name}.python",
                _PYTHON.format(name=name, folder=folder, path=REPO / "agent", python=sys.executable),
            )
        registry, data = compiler.compile_map({**compiler.empty_registry(), "members": members}, "default", 1)
        (folder / "wardmesh-registry.json").write_bytes(compiler.registry_bytes(registry))
        (folder / "wardmesh-fleet.json").write_bytes(data)
        hosts = {name: {"ansible_python_interpreter": str(folder / f"{name}.python")} for name in NAMES}
        base = {
            "ansible_connection": "local",
            "ansible_become": False,
            "wardmesh_rotate_wait": 3,
            "wardmesh_rotate_batches": ["100%"],
        }
        groups = {"web": {"hosts": {"node1": None, "node2": None}}}
        inventory = {"wardmesh": {"hosts": hosts, "vars": base}, **groups}
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        for name in NAMES:
            self.agent(name, "fleet", "apply", str(folder / "wardmesh-fleet.json"))

    def _collection(self):
        """The collection with the stand-in's path in the place of the agent's."""
        place = self.folder / "collections/ansible_collections/wardmesh/fleet"
        (place / "plugins/module_utils").mkdir(parents=True)
        for part in ("roles", "playbooks", "galaxy.yml", "agent", "meta"):
            (place / part).symlink_to(REPO / part)
        for part in ("action", "modules", "plugin_utils", "doc_fragments", "lookup"):
            (place / "plugins" / part).symlink_to(REPO / "plugins" / part)
        text = (REPO / "plugins/module_utils/_agent.py").read_text()
        fake = self.folder / "wardmesh"
        self._script("wardmesh", f'#!/bin/sh\nexec {sys.executable} {AGENT} "$@"\n')
        (place / "plugins/module_utils/_agent.py").write_text(
            text.replace("/usr/local/bin/wardmesh", str(fake))
        )

    def _script(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def agent(self, name, *words):
        done = subprocess.run(
            [sys.executable, str(AGENT), *words],
            env={
                **os.environ,
                "WARDMESH_TEST_HOST": name,
                "WARDMESH_TEST_FOLDER": str(self.folder),
                "PYTHONPATH": str(REPO / "agent"),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def set(self, name, state):
        (self.folder / f"{name}.json").write_text(json.dumps(state))

    def state(self, name):
        return json.loads((self.folder / f"{name}.json").read_text())

    def keys(self):
        return {name: self.state(name)["key"] for name in NAMES}

    def registry(self):
        return json.loads((self.folder / "wardmesh-registry.json").read_text())["members"]

    def compile(self, step, names):
        """A step of the controller by hand, and its map for these."""
        file, fleet = self.folder / "wardmesh-registry.json", self.folder / "wardmesh-fleet.json"
        new, data = compiler.compile_map(step(compiler.parse_registry(file.read_bytes(), "r")), "default", 1)
        file.write_bytes(compiler.registry_bytes(new))
        fleet.write_bytes(data)
        for name in names:
            self.agent(name, "fleet", "apply", str(fleet))

    def play(self, *words, good=True):
        place = self.folder / "collections/ansible_collections/wardmesh/fleet"
        environment = {
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
            "ANSIBLE_PIPELINING": "1",
        }
        playbook = place / "playbooks/rotate_keys.yml"
        done = play(self.folder, *words, playbook=playbook, environment=environment)
        assert (done.returncode == 0) is good, done.stdout + done.stderr
        return done.stdout

    def rotated(self, before):
        """Who has a new key; registry and hosts agree, and nothing of the rotation is left."""
        after = self.keys()
        assert {name: entry["key"] for name, entry in self.registry().items()} == after
        assert not any("next_key" in entry for entry in self.registry().values())
        assert {self.agent(name, "encryption", "rotate")["phase"] for name in NAMES} == {"none"}
        return [name for name in NAMES if after[name] != before[name]]


@pytest.fixture
def controller(tmp_path):
    return Controller(tmp_path)


def test_some_rotate_in_batches_and_all_take_part(controller):
    before = controller.keys()
    controller.play("-e", '{"wardmesh_rotate": "web", "wardmesh_rotate_batches": [1, "100%"]}')
    assert controller.rotated(before) == ["node1", "node2"]
    order = (controller.folder / "order").read_text().split()
    assert order[0] == "node1" and sorted(order) == NAMES


def test_a_name_that_is_no_member_is_refused(controller):
    before = controller.keys()
    controller.play("-e", "wardmesh_rotate=nobody", good=False)
    assert controller.rotated(before) == []


def test_a_member_that_is_away_stops_it_before_anything_is_begun(controller):
    before = controller.keys()
    (controller.folder / "node2.down").touch()
    told = controller.play(good=False)
    assert "the agent does not run" in told and "node2" in told
    (controller.folder / "node2.down").unlink()
    assert controller.rotated(before) == []


def test_a_limited_run_retires_nothing_and_says_who_did_not_report(controller):
    before = controller.keys()
    told = controller.play(
        "-e", "wardmesh_rotate=node1 wardmesh_rotate_wait=5", "--limit", "node1,node2", good=False
    )
    assert "node3 did not report" in told
    assert controller.keys() == before
    assert controller.registry()["node1"]["next_key"]
    controller.play()
    assert controller.rotated(before) == ["node1"], "what was begun is ended, and nothing new begun"


def test_a_run_that_was_cut_short_while_it_retired_is_ended_by_the_next_one(controller):
    """Registry and one host have the last map; the others still have the one of the second tunnels."""
    before = controller.keys()
    rotation = load("plugins/plugin_utils/_rotation.py")
    key = controller.agent("node1", "encryption", "rotate", "--phase", "stage")["next_public_key"]
    controller.compile(lambda registry: rotation.stage(registry, {"node1": key}), NAMES)
    for name in NAMES:
        controller.agent(name, "encryption", "rotate", "--phase", "activate")
    reports = {name: controller.agent(name, "encryption", "rotate") for name in NAMES}
    digest = reports["node1"]["fleet"]
    controller.compile(lambda registry: rotation.retire(registry, reports, digest), ["node1"])
    controller.play()
    assert controller.rotated(before) == ["node1"]


def test_check_mode_changes_nothing_and_says_that_it_would(controller):
    before = controller.keys()
    told = controller.play("--check")
    recap = told.split("PLAY RECAP")[-1]
    assert all(f"{name}" in recap for name in NAMES) and "changed=0" not in recap
    assert controller.rotated(before) == []
    assert not any(controller.state(name)["staged"] for name in NAMES)


def test_a_compromised_key_is_replaced_without_second_tunnels(controller):
    before = controller.keys()
    controller.play("-e", "wardmesh_compromised=node2")
    assert controller.rotated(before) == ["node2"]
    assert not (controller.folder / "order").exists()


def test_a_compromised_host_that_does_not_answer_gets_no_new_key(controller):
    before = controller.keys()
    (controller.folder / "node2.down").touch()
    controller.play("-e", "wardmesh_compromised=node2", good=False)
    (controller.folder / "node2.down").unlink()
    assert controller.rotated(before) == []
