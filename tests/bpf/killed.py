# SPDX-License-Identifier: Apache-2.0
"""A process that brings the guard up and kills itself before its n-th step.

Steps are the calls that change something: on the bpf file system, in a map, on a device.
"""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bpf.harness import FLEET, LISTEN_PORT, PYTHON, TestPaths

from wardmesh.datapath import bpfsys
from wardmesh.datapath.guard import Guard
from wardmesh.datapath.tc import Tc

STEPS: list[tuple[Any, str]] = [
    (Path, "mkdir"),
    (Path, "rename"),
    (Path, "rmdir"),
    (shutil, "rmtree"),
    (bpfsys, "map_create"),
    (bpfsys, "obj_pin"),
    (bpfsys, "map_update"),
    (bpfsys, "map_update_many"),
    (bpfsys, "map_delete_many"),
    (Tc, "add_clsact"),
    (Tc, "replace_filter"),
    (Tc, "del_filter"),
]


class Killer:
    """Counts steps and ends the process, as a power cut would."""

    def __init__(self, last: int) -> None:
        self.left = last

    def watch(self, owner: Any, name: str) -> None:
        """Count the calls of a function or method."""
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, counted)


def bring_up_and_die(home: Path, ifindex: int, step: int, size: int) -> int:
    """Fork; the child dies before its n-th step. Its wait status as subprocess gives it: 0, 1 or -SIGKILL."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        killer = Killer(step)
        for owner, name in STEPS:
            killer.watch(owner, name)
        guard = Guard(TestPaths(home=home), LISTEN_PORT, size, PYTHON)
        guard.ensure_loaded()
        guard.set_members(FLEET)
        guard.set_exceptions({(6, 22)})
        guard.attach([(ifindex, "v0", True)])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
