# SPDX-License-Identifier: Apache-2.0
"""The real agent in a namespace, where no systemd is: wireguard-go is a child. Usage: churn_agent.py ROOT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from wardmesh.daemon.main import run
from wardmesh.host.paths import Paths
from wardmesh.wireguard import userspace


class OwnProcess:
    """In the place of userspace.SystemdStarter. The process outlives the agent, as its unit does."""

    def start(self, ifname: str) -> None:
        self.stop(ifname)
        silent = subprocess.DEVNULL
        subprocess.Popen(
            ["wireguard-go", "-f", ifname],
            stdin=silent,
            stdout=silent,
            stderr=silent,
            start_new_session=False,
        )

    def stop(self, ifname: str) -> None:
        """What is left over ends with the host."""

    @staticmethod
    def unit(ifname: str) -> str:
        return ifname


if __name__ == "__main__":
    userspace.SystemdStarter = OwnProcess  # type: ignore[assignment,misc]
    sys.exit(run(Paths(Path(sys.argv[1]))))
