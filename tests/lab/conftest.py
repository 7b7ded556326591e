# SPDX-License-Identifier: Apache-2.0
"""One fleet for all lab tests of a run: three containers, rolled out once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab

ROOT = Path(__file__).parents[2]


@dataclass
class Fleet:
    """A lab with an inventory folder; play runs a playbook and keeps its whole output."""

    lab: Lab
    folder: Path
    output: str = ""

    def play(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        inventory = self.lab.inventory(self.folder / "hosts.yml")
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".dev"),
            "ANSIBLE_HOME": str(self.folder / "home"),
        }
        program = ROOT / ".venv/bin/ansible-playbook"
        done = subprocess.run(
            [str(program), "-i", str(inventory), str(ROOT / f"playbooks/{name}.yml"), *arguments],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        self.output += done.stdout + done.stderr
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done


def changed(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Host to its number of changes, from the recap."""
    lines = done.stdout.split("PLAY RECAP")[-1].splitlines()
    return {
        line.split()[0]: int(line.split("changed=")[1].split()[0]) for line in lines if "changed=" in line
    }


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts before any rollout."""
    made = Fleet(Lab.up(3, "test"), tmp_path_factory.mktemp("inventory"))
    yield made
    made.lab.down()
