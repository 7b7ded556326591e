# SPDX-License-Identifier: Apache-2.0
"""ansible-playbook on this machine, for tests of roles and modules without a lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.loading import REPO

LIMIT_SECONDS = 300.0  # ends what would hang


def play(
    folder: Path,
    *words: str,
    playbook: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a playbook (folder/play.yml if none is given) over folder/hosts.yml, with this collection."""
    program = Path(sys.executable).parent / "ansible-playbook"
    return subprocess.run(
        [str(program), "-i", str(folder / "hosts.yml"), str(playbook or folder / "play.yml"), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".dev"),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_ROLES_PATH": str(REPO / "roles"),
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            **(environment or {}),
        },
    )
