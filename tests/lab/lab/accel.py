# SPDX-License-Identifier: Apache-2.0
"""How QEMU runs a guest's processor: by KVM where a guest really runs in it, else by emulation (TCG).

/dev/kvm may be there and open, and guests still never execute an instruction (seen on a cloud machine
without nested virtualisation), so a kernel is booted to find out, once for each boot of this machine.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lab.image import cache_dir

VARIABLE = "WARDMESH_LAB_ACCEL"  # kvm or tcg: no probe
PROBE_SECONDS = 8.0  # a guest under KVM prints its first line within one
FLAGS: dict[str, Sequence[str]] = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    # tb-size in MB: clang's and Python's code together do not fit into less, and would be translated again.
    # Without cx16: with it, Debian's 6.12 kernel panicked in half of its emulated boots, without it in none.
    "tcg": ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64,-svm,-cx16"),
}


def accelerator(kernel: Path) -> str:
    """kvm or tcg."""
    wished = os.environ.get(VARIABLE, "")
    if wished:
        if wished not in FLAGS:
            raise RuntimeError(f"{VARIABLE}={wished}: there are {', '.join(FLAGS)}")
        return wished
    note = cache_dir() / "accel"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if note.exists():
        known_boot, _space, known = note.read_text().partition(" ")
        if known_boot == boot and known in FLAGS:
            return known
    found = "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) and _kvm_runs(kernel) else "tcg"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{boot} {found}")
    return found


def _kvm_runs(kernel: Path) -> bool:
    """Does a guest print something? It has no disk, so it ends by itself soon after."""
    with tempfile.TemporaryDirectory() as folder:
        console = Path(folder) / "console"
        process = subprocess.Popen(
            [
                "qemu-system-x86_64",
                *("-nodefaults", "-no-user-config", "-M", "q35", *FLAGS["kvm"], "-m", "256"),
                *("-display", "none", "-no-reboot", "-serial", f"file:{console}"),
                *("-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + PROBE_SECONDS
            while time.monotonic() < deadline:
                if console.exists() and b"Linux version" in console.read_bytes():
                    return True
                if process.poll() is not None:
                    return False
                time.sleep(0.1)
            return False
        finally:
            process.kill()
            process.wait()
