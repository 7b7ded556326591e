# SPDX-License-Identifier: Apache-2.0
"""The root filesystem of lab hosts: Debian by mmdebstrap, cached outside the checkout.

One tree serves containers (as overlay's lower layer) and machines (as an ext4 image). The cache is
keyed by what went into it and renamed into place last, so a build that was killed is built again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from lab.kernels import fetch, release_of

KERNELS = Path(__file__).with_name("kernels.py")
PACKAGES = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "openssh-server",
    "python3",
    "python3-bpfcc",
    "python3-grpcio",
    "python3-prometheus-client",
    "python3-protobuf",
    "python3-pyroute2",
    "python3-yaml",
    "python3-cryptography",
    "wireguard-tools",
    "wireguard-go",
    "iproute2",
    "nftables",
    "iputils-ping",
    "tcpdump",
    "iperf3",
    "bpftool",
    "procps",
    "ca-certificates",
    "curl",
]
MASKED = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
    "logrotate.timer",
    "getty@tty1.service",
    "getty-static.service",
    "serial-getty@ttyS0.service",
    "console-getty.service",
    "systemd-hwdb-update.service",
    "systemd-update-done.service",
    "ldconfig.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "systemd-update-utmp.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "systemd-journal-flush.service",
    "systemd-sysusers.service",
]
SUITE = os.environ.get("WARDMESH_LAB_SUITE", "bookworm")  # of the hosts' root filesystem, where none is named
NET_SCRIPT = """#!/bin/sh
# The lab's number of this host: from the container's environment, or from the MAC address of a machine.
ip link set lo up
id=$(tr '\\0' '\\n' </proc/1/environ | sed -n 's/^lab_id=//p')
[ -n "$id" ] || id=$(printf %d 0x$(sed 's/.*://' /sys/class/net/host0/address))
ip link set host0 up
ip addr replace 10.99.0.$id/24 dev host0
ip -6 addr replace fd99::$(printf %x $id)/64 dev host0 nodad
"""
NET_UNIT = """[Unit]
DefaultDependencies=no
After=systemd-udevd.service network-pre.target
Before=network.target ssh.service
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-net
[Install]
WantedBy=multi-user.target
"""


def cache_dir() -> Path:
    """Where images live; WARDMESH_LAB_CACHE moves it."""
    base = os.environ.get("WARDMESH_LAB_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "wardmesh-lab"


def _run(argv: list[str], **kwargs: object) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, **kwargs)  # type: ignore[call-overload]


def image(suite: str = SUITE) -> Path:
    """The folder of a suite's image with rootfs/ and id_lab, built when it is not there."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + KERNELS.read_bytes()).hexdigest()[:12]
    target = cache_dir() / f"{suite}-{recipe}"
    if (target / "complete").exists():
        return target
    work = target.with_name(f"{target.name}.part")
    if work.exists():
        _run(["rm", "-rf", "--one-file-system", str(work)])
    work.mkdir(parents=True)
    print(f"lab: building the {suite} image (about two minutes, once)", flush=True)
    root = work / "rootfs"
    _run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=apt",
            "--mode=root",
            f"--include={','.join(PACKAGES)}",
            '--aptopt=Acquire::Languages "none"',
            '--aptopt=APT::Install-Recommends "false"',
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            suite,
            str(root),
        ]
    )
    kernel = _kernel(work)
    _customize(root, work)
    (work / "kernel").write_text(kernel)
    (work / "complete").touch()
    work.rename(target)
    return target


def _kernel(work: Path) -> str:
    """Debian's cloud kernel, unpacked beside the tree, and its headers into it (bcc needs them)."""
    version = release_of("linux-image-cloud-amd64")
    fetch(version, work)
    _run(["cp", "-a", f"{work}/headers-tree/usr/src/.", f"{work}/rootfs/usr/src/"])
    # Modules for machines; bcc must find the headers by itself, so the build links are left out.
    modules = work / "kernel-tree/lib/modules"
    _run(["cp", "-a", str(modules), f"{work}/rootfs/usr/lib/"])
    for name in ("build", "source"):
        link = work / "rootfs/usr/lib/modules" / version / name
        link.unlink(missing_ok=True)
    _run(["chroot", str(work / "rootfs"), "depmod", version])
    shutil.rmtree(work / "headers-tree")
    return version


def _customize(root: Path, work: Path) -> None:
    """SSH key, network, and only the units that a lab needs."""
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(work / "id_lab")])
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(work / "id_lab.pub", ssh / "authorized_keys")
    (ssh / "authorized_keys").chmod(0o600)
    for name in ("machine-id", "hostname"):
        (root / "etc" / name).unlink(missing_ok=True)
    (root / "etc/machine-id").touch()
    _run(["ssh-keygen", "-q", "-A", "-f", str(root)])
    (root / "etc/ssh/sshd_config.d/lab.conf").write_text(
        "UseDNS no\nPermitRootLogin prohibit-password\nUsePAM no\n"
    )
    script = root / "usr/local/sbin/lab-net"
    script.write_text(NET_SCRIPT)
    script.chmod(0o755)
    units = root / "etc/systemd/system"
    (units / "lab-net.service").write_text(NET_UNIT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/lab-net.service").symlink_to("../lab-net.service")
    for name in MASKED:
        link = units / name
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    (root / "etc/fstab").write_text("")
