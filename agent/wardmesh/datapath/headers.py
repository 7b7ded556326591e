# SPDX-License-Identifier: Apache-2.0
"""Find kernel headers for bcc, on hosts that have them and on hosts whose kernel ships none.

The programs use UAPI structures only, so the headers of any kernel will do; those of the running
one are taken first. Debian splits its headers into an architecture's part and a common one: both
are merged into one tree of symbolic links below the state directory.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

PACKAGES = "linux-headers-$(uname -r) (Debian, Ubuntu; or linux-headers-amd64, -generic), kernel-devel (RHEL)"

# What bcc's command line includes from a tree; a tree that lacks one of them cannot be used.
_NEEDED = ("include/linux/kconfig.h", "include/generated/autoconf.h", "include/uapi/linux/bpf.h")
_ARCH = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "riscv64": "riscv",
    "armv7l": "arm",
}


@dataclass(frozen=True)
class Headers:
    """A complete tree (what BCC_KERNEL_SOURCE is set to) and where it comes from."""

    tree: Path
    origin: str


def find_headers(paths: Paths, environ: Mapping[str, str] | None = None, release: str = "") -> Headers:
    """The best usable tree; WardmeshError with package names when there is none."""
    running = release or os.uname().release
    given = (os.environ if environ is None else environ).get("BCC_KERNEL_SOURCE")
    if given:
        headers = _usable(Path(given), paths, None)
        if headers is None:
            raise WardmeshError(
                "no kernel headers in the folder that BCC_KERNEL_SOURCE names",
                where=given,
                why=f"{', '.join(_NEEDED)} must be there",
                remedy="correct BCC_KERNEL_SOURCE or unset it",
            )
        return headers
    for tree, source in _candidates(paths.root, running):
        headers = _usable(tree, paths, source)
        if headers is not None:
            return headers
    raise WardmeshError(
        "no kernel headers found, the eBPF programs cannot be compiled",
        where=f"/lib/modules/{running}/build, /sys/kernel/kheaders.tar.xz, /usr/src",
        why="bcc needs the headers of this or any other kernel",
        remedy=f"install {PACKAGES}, or set BCC_KERNEL_SOURCE",
    )


def _candidates(root: Path, release: str) -> Iterator[tuple[Path, Path | None]]:
    """Trees in the order of preference, with the common part where it is already known."""
    modules = root / "lib/modules" / release
    yield modules / "build", modules / "source"
    archive = root / "sys/kernel/kheaders.tar.xz"
    if archive.is_file():
        yield archive, None
    found = [
        *(root / "usr/src").glob("linux-headers-*"),
        *(root / "usr/src/kernels").glob("*"),
        *(root / "lib/modules").glob("*/build"),
    ]
    for tree in sorted(found, key=lambda tree: (release in str(tree), _version(tree)), reverse=True):
        yield tree, None


def _version(tree: Path) -> list[int]:
    return [
        int(number) for number in re.findall(r"\d+", tree.parent.name if tree.name == "build" else tree.name)
    ]


def _usable(tree: Path, paths: Paths, source: Path | None) -> Headers | None:
    """The tree itself when it is whole, else merged with its common part, else None."""
    if tree.name.endswith(".tar.xz"):
        return _unpack(tree, paths)
    if not tree.is_dir():
        return None
    if _complete(tree):
        return Headers(tree, str(tree))
    common = source if source is not None and source.is_dir() else _common_part(tree, paths.root)
    if common is None:
        return None
    merged = paths.state / "headers/merged"
    _merge_fresh(merged, tree, common)
    return Headers(merged, f"{tree} with {common}") if _complete(merged) else None


def _complete(tree: Path) -> bool:
    arch = _ARCH.get(platform.machine(), platform.machine())
    needed = (*_NEEDED, f"arch/{arch}/include/generated", f"arch/{arch}/include/uapi")
    return all((tree / name).exists() for name in needed)


def _common_part(tree: Path, root: Path) -> Path | None:
    """Debian: the architecture's Makefile includes the common one; else by the name of the folder."""
    makefile = tree / "Makefile"
    if makefile.is_file():
        match = re.search(
            r"^include\s+/(\S+)/Makefile\s*$", makefile.read_text(errors="replace"), re.MULTILINE
        )
        if match and (root / match[1]).is_dir():
            return root / match[1]
    name = tree.resolve().name
    for common in sorted((root / "usr/src").glob("linux-headers-*-common*"), reverse=True):
        if name.startswith(common.name.split("-common")[0]):
            return common
    return None


def _merge_fresh(target: Path, tree: Path, common: Path) -> None:
    """Build the merged tree beside target, then put it in its place."""
    fresh = target.with_name("merging")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for part in ("include", "arch"):
        merge(fresh / part, tree / part, common / part)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def merge(target: Path, first: Path, second: Path) -> None:
    """Links to everything of both folders; a folder that both have is merged, of two files the first wins."""
    target.mkdir(exist_ok=True)
    names = {entry.name for folder in (first, second) if folder.is_dir() for entry in folder.iterdir()}
    for name in sorted(names):
        one, other = first / name, second / name
        if one.is_dir() and other.is_dir():
            merge(target / name, one, other)
        else:
            (target / name).symlink_to((one if one.exists() else other).resolve())


def _unpack(archive: Path, paths: Paths) -> Headers | None:
    """The kernel's own headers (CONFIG_IKHEADERS), unpacked once for each running kernel."""
    target = paths.state / "headers" / f"kheaders-{os.uname().release}"
    if not target.is_dir():
        fresh = target.with_name("unpacking")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            with tarfile.open(archive) as bundle:
                for member in bundle:
                    if member.isdir() or (member.isfile() and ".." not in Path(member.name).parts):
                        bundle.extract(member, fresh, set_attrs=False)
        except (tarfile.TarError, OSError) as error:
            raise WardmeshError(
                "cannot unpack the kernel's headers", where=str(archive), why=str(error)
            ) from error
        fresh.rename(target)
    return Headers(target, str(archive)) if _complete(target) else None
