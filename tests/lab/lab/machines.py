# SPDX-License-Identifier: Apache-2.0
"""QEMU hosts: Debian's stock kernel, own disk (overlay over the image's), a tap on the lab's bridge.

As with containers, names carry everything: tap p<i> in the lab's namespace, folder <state>/<i>. A
process is ended only when its command line names the disk in that folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from lab.accel import FLAGS, accelerator
from lab.containers import sh
from lab.machine_image import machine_image, overlay

BOOT_SECONDS = 480.0  # a limit; alone on two cores a boot takes 13 s emulated
# bcc's compiler run peaks at 180 MB; with 384 MB the guest had to drop its page cache for it.
MEMORY_MB = 512
KERNEL = "kernel"  # of a machine that boots another kernel than its image's: a file with the release
# What a boot need not wait for (half of its time under emulation): what a lab needs is loaded on demand.
MASKED = (
    *(f"modprobe@{name}" for name in ("configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop")),
    *("kmod-static-nodes", "systemd-modules-load", "systemd-udev-trigger", "systemd-logind"),
    *("systemd-update-utmp-runlevel", "systemd-random-seed", "systemd-pcrphase", "systemd-pcrphase-sysinit"),
)
# quiet … show_status: a serial console is slow under emulation. mitigations, nokaslr, audit, apparmor: boot
# time. tsc: the watchdog finds the emulated clock wanting. panic: so that a broken guest is seen to reboot.
CMDLINE = (
    "console=ttyS0 quiet loglevel=3 panic=5 mitigations=off nokaslr net.ifnames=0 audit=0 apparmor=0 "
    "selinux=0 tsc=reliable systemd.show_status=0 "
) + " ".join(f"systemd.mask={name}.service" for name in MASKED)


def start(image: Path, state: Path, lab: str, index: int, bridge_ns: str) -> None:
    """Boot one machine; its disk is made when it has none, so a machine that lost power keeps it."""
    folder = state / str(index)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = folder / KERNEL
    files = machine_image(image, chosen.read_text() if chosen.exists() else "")
    disk = folder / "disk.qcow2"
    if not disk.exists():
        overlay(files.disk, disk)
    _cable(bridge_ns, index)
    command = [
        "qemu-system-x86_64",
        *("-name", f"wl-{lab}-{index}", "-nodefaults", "-no-user-config", "-M", "q35"),
        *(*FLAGS[accelerator(files.kernel)], "-m", str(MEMORY_MB), "-smp", "1"),
        *("-display", "none", "-serial", f"file:{folder}/log"),
        *("-kernel", str(files.kernel), "-initrd", str(files.initrd)),
        *("-append", f"{CMDLINE} systemd.hostname=node{index}"),
        # Unsafe towards a crash of this machine only; what a guest wrote outlives its process.
        *("-drive", f"id=d0,if=none,format=qcow2,cache=unsafe,file={disk}"),
        *("-device", "virtio-blk-pci,drive=d0"),
        *("-object", "rng-random,id=r,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=r"),
        *("-netdev", f"tap,id=n0,ifname={_tap(index)},script=no,downscript=no"),
        *("-device", f"virtio-net-pci,netdev=n0,mac=02:99:00:00:00:{index:02x},romfile="),
    ]
    # The number is on disk before QEMU runs: whoever cleans up after a killed lab finds the process.
    record = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(folder / "pid")]
    with open(folder / "qemu.log", "wb") as log:
        subprocess.Popen(
            [*record, "ip", "netns", "exec", bridge_ns, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _tap(index: int) -> str:
    return f"p{index}"


def _cable(bridge_ns: str, index: int) -> None:
    """A tap on the bridge. QEMU takes it over by its name; it stays when QEMU goes."""
    sh("ip", "-n", bridge_ns, "link", "del", _tap(index), check=False)
    sh("ip", "-n", bridge_ns, "tuntap", "add", _tap(index), "mode", "tap")
    sh("ip", "-n", bridge_ns, "link", "set", _tap(index), "master", "br0", "up")


def process(folder: Path) -> int:
    """The process of the machine in folder; 0 where none runs or the number is somebody else's by now."""
    try:
        pid = int((folder / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    ours = f"{folder}/disk.qcow2".encode() in command or f"{folder}/pid".encode() in command
    return pid if ours else 0


def stop(folder: Path) -> None:
    """Cut its power, and wait until it is gone."""
    deadline = time.monotonic() + 20
    while (pid := process(folder)) and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # another process started it
            os.waitpid(pid, 0)
        time.sleep(0.02)


def destroy(state: Path, index: int, bridge_ns: str) -> None:
    """Remove every trace; works on half-made hosts too, and does nothing to containers."""
    folder = state / str(index)
    if not (folder / "disk.qcow2").exists() and not (folder / "qemu.log").exists():
        return
    stop(folder)
    sh("ip", "-n", bridge_ns, "link", "del", _tap(index), check=False)
    sh("rm", "-rf", "--one-file-system", str(folder))
