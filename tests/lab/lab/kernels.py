# SPDX-License-Identifier: Apache-2.0
"""Debian's cloud kernels and their headers, from the package mirror, unpacked beside the lab's image."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FLAVOUR = "-cloud-amd64"


def release_of(package: str) -> str:
    """The release (as uname tells it) that a metapackage such as linux-image-cloud-amd64 stands for now."""
    argv = ["apt-cache", "depends", package]
    depends = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    name = next(line.split()[-1] for line in depends.splitlines() if "Depends:" in line)
    return name.removeprefix("linux-image-")


def fetch(release: str, work: Path) -> None:
    """Unpack the kernel to work/kernel-tree, its headers to work/headers-tree."""
    print(f"lab: fetching kernel and headers {release}", flush=True)
    debs = work / "debs"
    debs.mkdir()
    names = [
        f"linux-image-{release}",
        f"linux-headers-{release}",
        f"linux-headers-{release.removesuffix(FLAVOUR)}-common",
    ]
    argv = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *names]
    subprocess.run(argv, check=True, cwd=debs, stdin=subprocess.DEVNULL)
    for deb in debs.glob("*.deb"):
        place = work / "kernel-tree" if deb.name.startswith("linux-image") else work / "headers-tree"
        subprocess.run(["dpkg", "-x", str(deb), str(place)], check=True)
    shutil.rmtree(debs)
    settle(work / "kernel-tree")


def settle(tree: Path) -> None:
    """Modules to lib/modules of an unpacked kernel: from Debian 13 on its package has them below usr."""
    merged = tree / "usr/lib"
    if not (tree / "lib").exists() and merged.is_dir():
        merged.rename(tree / "lib")


def another(image: Path, release: str) -> Path:
    """The folder with the trees of a kernel that the image does not have; fetched once."""
    target = image / "kernels" / release
    if not target.exists():
        work = target.with_name(f"{release}.part")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        fetch(release, work)
        work.rename(target)
    return target
