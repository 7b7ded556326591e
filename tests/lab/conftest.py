# SPDX-License-Identifier: Apache-2.0
"""One fleet for all lab tests of a run, rolled out once: the same tests on containers and on machines.

A test runs on both kinds of host unless it is marked `container` or `vm`; `-m vm` picks the machines.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import compiled
from lab import Lab
from scenario import Scenario

ROOT = Path(__file__).parents[2]
KINDS, HOSTS = ("container", "vm"), 3  # three are the fewest of which one may fail and two still talk
MACHINES = "vm"  # the scenario of Molecule that makes them
PLAY_SECONDS = {"container": 600, "vm": 1500}  # limits; an emulated machine takes four minutes for the first


@dataclass
class Fleet:
    """A lab with an inventory folder; play runs a playbook and keeps its whole output."""

    lab: Lab
    folder: Path
    output: str = ""
    collections: Path = ROOT / ".dev"
    predicted: set[tuple[str, str]] = field(default_factory=set)
    snapshots: dict[str, str] = field(default_factory=dict)
    compiled: bool = True  # False: hosts get what another lab's hosts compiled on this kernel
    scenario: Scenario | None = None  # of Molecule, where it made the hosts

    def roll_out(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The first rollout; Molecule's converge where it made the hosts."""
        if self.scenario is None:
            return self.play("site", *arguments)
        done = self.scenario.step("converge", *arguments)
        self.output += done.stdout + done.stderr
        return done

    def roll_out_again(self) -> subprocess.CompletedProcess[str]:
        """The same once more; Molecule's idempotence where it made the hosts."""
        return self.play("site") if self.scenario is None else self.scenario.step("idempotence")

    def play(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A playbook by its name here, by its path, or by its collection's name."""
        if name == "site" and not self.compiled:
            compiled.give(self.lab)
        inventory = self.lab.inventory(self.folder / "hosts.yml")
        playbook = name if "." in name else str(ROOT / f"playbooks/{name}.yml")
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_HOME": str(self.folder / "home"),
            # What a run keeps, facts and temporary files too, lies below this folder, where a test greps it.
            "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.folder / "facts"),
            "TMPDIR": str(temporary),
        }
        program = ROOT / ".venv/bin/ansible-playbook"
        done = subprocess.run(
            [str(program), "-i", str(inventory), playbook, *arguments],
            capture_output=True,
            text=True,
            timeout=PLAY_SECONDS[self.lab.kind],
            check=False,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        self.output += done.stdout + done.stderr
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        if name == "site" and not self.compiled and done.returncode == 0:
            compiled.take(self.lab)
            self.compiled = True
        return done


def changed(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Host to its number of changes, from the recap."""
    lines = done.stdout.split("PLAY RECAP")[-1].splitlines()
    return {
        line.split()[0]: int(line.split("changed=")[1].split()[0]) for line in lines if "changed=" in line
    }


def changed_tasks(done: subprocess.CompletedProcess[str]) -> set[tuple[str, str]]:
    """(task, host) of every task that reported a change, from the default callback's lines."""
    found: set[tuple[str, str]] = set()
    task = ""
    for line in done.stdout.splitlines():
        if line.startswith("TASK ["):
            task = line.removeprefix("TASK [").partition("]")[0]
        elif line.startswith("changed: ["):
            found.add((task, line.removeprefix("changed: [").partition("]")[0]))
    return found


def kinds_for(marks: set[str]) -> list[object]:
    """The kinds of host that a test with these marks runs on, as pytest's parameters."""
    wanted = marks & set(KINDS) or set(KINDS)
    return [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in KINDS if kind in wanted]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that asks for a fleet or a kind of host, once for each kind."""
    kinds = kinds_for({mark.name for mark in metafunc.definition.iter_markers()})
    if "fleet" in metafunc.fixturenames:
        metafunc.parametrize("fleet", kinds, indirect=True, scope="session")
    elif "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", kinds)


@pytest.fixture(scope="session")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Hosts of one kind before any rollout."""
    kind, folder = request.param, tmp_path_factory.mktemp("inventory")
    if kind == "container":
        made = Fleet(Lab.up(HOSTS, f"test-{kind}", kind), folder)
        yield made
        made.lab.down()
        return
    scenario = Scenario(MACHINES, folder, HOSTS)
    scenario.step("create")
    yield Fleet(Lab(f"molecule-{MACHINES}"), folder, scenario=scenario)
    scenario.step("destroy")
