# SPDX-License-Identifier: Apache-2.0
"""The real agent as a process of its own in a host of hosts.py; only systemd's part is played here.

Usage: daemon.py ROOT. wireguard-go runs in a session of its own and outlives the agent, as its unit does; its
process ids lie in ROOT/wireguard-go/<interface>.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from wardmesh.daemon.main import run
from wardmesh.host.paths import Paths
from wardmesh.wireguard import userspace

ROOT = Path(sys.argv[1])


class SessionStarter:
    """In the place of userspace.SystemdStarter."""

    def start(self, ifname: str) -> None:
        self.stop(ifname)
        process = subprocess.Popen(
            ["wireguard-go", "-f", ifname],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        note = ROOT / "wireguard-go" / ifname
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(process.pid))

    def stop(self, ifname: str) -> None:
        note = ROOT / "wireguard-go" / ifname
        if note.exists():
            with suppress(ProcessLookupError):
                os.kill(int(note.read_text()), signal.SIGTERM)
            note.unlink()

    @staticmethod
    def unit(ifname: str) -> str:
        return ifname


if __name__ == "__main__":
    userspace.SystemdStarter = SessionStarter  # type: ignore[assignment,misc]
    sys.exit(run(Paths(ROOT)))
