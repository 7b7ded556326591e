# SPDX-License-Identifier: Apache-2.0
"""One agent per host."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from wardmesh.model.errors import WardmeshError


class AgentLock:
    """Holds an flock for the life of the process; the file names the holder's pid."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = open(path, "a+", encoding="ascii")  # noqa: SIM115 - held for the life of the process
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._handle.seek(0)
            pid = self._handle.read().strip() or "unknown"
            self._handle.close()
            raise WardmeshError(
                "another agent runs on this host",
                where=str(path),
                why=f"it has pid {pid}",
                remedy="stop it first: systemctl stop wardmesh",
            ) from error
        self._handle.truncate(0)
        self._handle.write(str(os.getpid()))
        self._handle.flush()

    def release(self) -> None:
        """Let the next agent in."""
        self._handle.close()
