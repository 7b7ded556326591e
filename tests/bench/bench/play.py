# SPDX-License-Identifier: Apache-2.0
"""Playbooks against a lab, with the controller's time and CPU."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.report import REPO
from lab import Lab

PING = "- hosts: wardmesh\n  gather_facts: false\n  tasks:\n    - ansible.builtin.ping:\n"


@dataclass(frozen=True)
class Run:
    """Wall seconds, and CPU seconds of the controller with all its processes."""

    seconds: float
    cpu: float


class Controller:
    """An inventory folder of its own; gone at the end."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._folder = Path(tempfile.mkdtemp(prefix="wardmesh-bench-"))

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_args: object) -> None:
        shutil.rmtree(self._folder)

    def play(self, name: str, *arguments: str) -> Run:
        """Run a playbook of the project, or the ping play."""
        playbook = REPO / f"playbooks/{name}.yml"
        if name == "ping":
            playbook = self._folder / "ping.yml"
            playbook.write_text(PING)
        inventory = self._lab.inventory(self._folder / "hosts.yml")
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".dev"),
            "ANSIBLE_HOME": str(self._folder / "home"),
        }
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [str(REPO / ".venv/bin/ansible-playbook"), "-i", str(inventory), str(playbook), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=900,
        )
        if done.returncode:
            raise RuntimeError(
                f"{name}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
            )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Run(time.monotonic() - start, cpu)
