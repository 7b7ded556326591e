# SPDX-License-Identifier: Apache-2.0
"""A Molecule scenario, a step at a time, so that tests run between its steps and on its hosts."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Scenario:
    """A scenario of molecule/; folder: of its inventory and the fleet's registry; hosts: how many."""

    name: str
    folder: Path
    hosts: int

    def step(
        self, verb: str, *arguments: str, check: bool = True, seconds: float = 1500
    ) -> subprocess.CompletedProcess[str]:
        """`molecule VERB`; arguments go to ansible-playbook."""
        programs = ROOT / ".venv/bin"
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "MOLECULE_GLOB": "molecule/*/molecule.yml",
            "MOLECULE_EPHEMERAL_DIRECTORY": str(self.folder),
            "WARDMESH_LAB_HOSTS": str(self.hosts),
            "ANSIBLE_HOME": str(self.folder / "home"),
            "NO_COLOR": "1",
        }
        words = [str(programs / "molecule"), verb, "-s", self.name]
        done = subprocess.run(
            [*words, "--", *arguments] if arguments else words,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done
