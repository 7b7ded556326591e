# SPDX-License-Identifier: Apache-2.0
"""What machines boot from: kernel, a small initramfs and a disk, made once from the lab's image.

They lie in the image's folder under names that carry a digest of this file, and are renamed into place
last, so what a killed build left is built again.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.containers import sh
from lab.kernels import another

# Debian's cloud kernel has ext4 built in, and the later it is the more of these. In order of dependencies.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
)
DISK_SIZE = "3G"  # sparse; the tree takes 0.7 GB of it
APPLETS = ("sh", "mount", "umount", "insmod", "switch_root", "sleep", "ip", "ls")
# host0 is what the one mesh device is called in containers too; systemd's and udev's names come later.
INIT = """#!/bin/sh
set -e
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
n=0
while [ ! -b /dev/vda -o ! -e /sys/class/net/eth0 ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done
ip link set eth0 name host0
mount -t ext4 -o rw /dev/vda /root
umount /proc
umount /sys
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
"""


@dataclass(frozen=True)
class MachineImage:
    """Files for QEMU; disk is never written to, machines put an overlay over it."""

    kernel: Path
    initrd: Path
    disk: Path


def machine_image(image: Path, release: str = "") -> MachineImage:
    """The files beside the rootfs of image, made when they are not there. release: of another kernel."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    version = release or (image / "kernel").read_text().strip()
    with open(image / "machine.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        trees = another(image, release) if release else image
        found = MachineImage(
            trees / f"kernel-tree/boot/vmlinuz-{version}",
            trees / f"machine-{recipe}.initrd",
            image / f"machine-{recipe}.ext4",
        )
        if not found.initrd.exists():
            _replace(found.initrd, _initrd(trees / "kernel-tree", version))
        if not found.disk.exists():
            print("lab: making the machines' disk (ten seconds, once)", flush=True)
            _make_disk(image / "rootfs", found.disk)
    return found


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.rename(path)


def _make_disk(tree: Path, disk: Path) -> None:
    part = disk.with_name(f"{disk.name}.part")
    part.unlink(missing_ok=True)
    sh(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-L",
        "lab",
        "-E",
        "lazy_itable_init=1",
        "-d",
        str(tree),
        str(part),
        DISK_SIZE,
    )
    part.rename(disk)


def _initrd(kernel_tree: Path, version: str) -> bytes:
    """An uncompressed cpio archive: unpacking costs time where the processor is emulated."""
    folders = ("bin", "dev", "modules", "proc", "root", "sys")
    parts = [_entry(name, 0o040755) for name in folders]
    parts.append(_entry("init", 0o100755, INIT.encode()))
    parts.append(_entry("bin/busybox", 0o100755, _busybox()))
    parts += [_entry(f"bin/{name}", 0o120777, b"busybox") for name in APPLETS]
    modules = kernel_tree / "lib/modules" / version
    built_in = (modules / "modules.builtin").read_text()
    for number, name in enumerate(MODULES):
        if f"/{name}.ko\n" in built_in:
            continue
        module = next(modules.rglob(f"{name}.ko*"))
        data = module.read_bytes()
        if module.suffix == ".xz":
            data = lzma.decompress(data)
        parts.append(_entry(f"modules/{number}-{name}.ko", 0o100644, data))
    return b"".join([*parts, _entry("TRAILER!!!", 0)])


def _entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One file in cpio's newc form (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def _busybox() -> bytes:
    """Debian's static busybox out of its package; installing it would displace the dynamic one."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "busybox-static"]
        subprocess.run(argv, cwd=folder, check=True, stdin=subprocess.DEVNULL)
        package = next(Path(folder).glob("*.deb"))
        sh("dpkg", "-x", str(package), f"{folder}/tree")
        return next(Path(folder).glob("tree/**/bin/busybox")).read_bytes()


def overlay(base: Path, disk: Path) -> None:
    """A new disk that holds only what differs from base."""
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(disk))
