# SPDX-License-Identifier: Apache-2.0
"""Kernel headers are found wherever distributions put them."""

from __future__ import annotations

import os
import platform
import tarfile
from pathlib import Path

import pytest

from wardmesh.datapath.headers import find_headers
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

RUNNING = "6.1.0-56-amd64"
ARCH = {"x86_64": "x86", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def write(root: Path, *names: str, text: str = "") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def common(root: Path) -> Path:
    """What a common part (or a whole tree) holds."""
    write(
        root, "include/linux/kconfig.h", "include/uapi/linux/bpf.h", f"arch/{ARCH}/include/uapi/asm/types.h"
    )
    return root


def arch(root: Path) -> Path:
    """What an architecture's part holds."""
    write(root, "include/generated/autoconf.h", f"arch/{ARCH}/include/generated/asm/a.h")
    return root


def whole(root: Path) -> Path:
    return arch(common(root))


def find(root: Path, environ: dict[str, str] | None = None) -> tuple[Path, str]:
    found = find_headers(Paths(root), environ or {}, RUNNING)
    for name in (
        "include/linux/kconfig.h",
        "include/generated/autoconf.h",
        f"arch/{ARCH}/include/generated/asm/a.h",
    ):
        assert (found.tree / name).is_file()
    return found.tree, found.origin


def test_nothing_names_the_packages(tmp_path: Path) -> None:
    with pytest.raises(WardmeshError, match="no kernel headers found") as caught:
        find_headers(Paths(tmp_path), {}, RUNNING)
    for word in ("linux-headers-$(uname -r)", "kernel-devel", "BCC_KERNEL_SOURCE"):
        assert word in str(caught.value)


def test_the_running_kernels_build_link(tmp_path: Path) -> None:
    tree = whole(tmp_path / "lib/modules" / RUNNING / "build")
    whole(tmp_path / "usr/src/linux-headers-9.9.9-generic")
    assert find(tmp_path)[0] == tree


def test_debians_two_parts_are_merged(tmp_path: Path) -> None:
    one = arch(tmp_path / "usr/src/linux-headers-6.1.0-56-amd64")
    two = common(tmp_path / "usr/src/linux-headers-6.1.0-56-common")
    common(tmp_path / "usr/src/linux-headers-6.1.0-44-common")
    write(one, "Makefile", text="include /usr/src/linux-headers-6.1.0-56-common/Makefile\n")
    tree, origin = find(tmp_path)
    assert tree == tmp_path / "var/lib/wardmesh/headers/merged"
    assert origin == f"{one} with {two}"
    assert find(tmp_path)[0] == tree  # again, over the first


def test_debians_build_and_source_links(tmp_path: Path) -> None:
    one = arch(tmp_path / "usr/src/linux-headers-6.1.0-56-amd64")
    two = common(tmp_path / "usr/src/linux-headers-6.1.0-56-common")
    modules = tmp_path / "lib/modules" / RUNNING
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(one)
    (modules / "source").symlink_to(two)
    assert find(tmp_path)[1] == f"{modules / 'build'} with {modules / 'source'}"


def test_a_common_part_by_name(tmp_path: Path) -> None:
    one = arch(tmp_path / "usr/src/linux-headers-6.1.0-56-rt-amd64")
    two = common(tmp_path / "usr/src/linux-headers-6.1.0-56-common-rt")
    assert find(tmp_path)[1] == f"{one} with {two}"


def test_another_kernels_headers_will_do_the_newest_first(tmp_path: Path) -> None:
    whole(tmp_path / "usr/src/linux-headers-5.15.0-9-generic")
    newest = whole(tmp_path / "usr/src/linux-headers-6.11.0-2-generic")
    whole(tmp_path / "usr/src/linux-headers-6.8.0-31-generic")
    assert find(tmp_path)[0] == newest


def test_the_running_release_goes_before_a_newer_one(tmp_path: Path) -> None:
    whole(tmp_path / "usr/src/linux-headers-6.11.0-2-generic")
    running = whole(tmp_path / f"usr/src/linux-headers-{RUNNING}")
    assert find(tmp_path)[0] == running


def test_red_hats_folder(tmp_path: Path) -> None:
    tree = whole(tmp_path / "usr/src/kernels/5.14.0-427.el9.x86_64")
    assert find(tmp_path)[0] == tree


def test_a_dangling_build_link_is_passed_over(tmp_path: Path) -> None:
    modules = tmp_path / "lib/modules" / RUNNING
    modules.mkdir(parents=True)
    (modules / "build").symlink_to("/nonexistent")
    tree = whole(tmp_path / "usr/src/linux-headers-6.8.0-31-generic")
    assert find(tmp_path)[0] == tree


def test_bcc_kernel_source_goes_first(tmp_path: Path) -> None:
    whole(tmp_path / "lib/modules" / RUNNING / "build")
    given = whole(tmp_path / "mine")
    assert find(tmp_path, {"BCC_KERNEL_SOURCE": str(given)})[0] == given


def test_a_wrong_bcc_kernel_source_is_told(tmp_path: Path) -> None:
    whole(tmp_path / "lib/modules" / RUNNING / "build")
    with pytest.raises(WardmeshError, match=r"/mine: no kernel headers.*unset it"):
        find_headers(Paths(tmp_path), {"BCC_KERNEL_SOURCE": str(tmp_path / "mine")}, RUNNING)


def test_the_kernels_own_archive(tmp_path: Path) -> None:
    tree = whole(tmp_path / "packed")
    archive = tmp_path / "sys/kernel/kheaders.tar.xz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:xz") as bundle:
        for part in ("include", "arch"):
            bundle.add(tree / part, part)
        outside = tarfile.TarInfo("../outside")
        bundle.addfile(outside)
    found, origin = find(tmp_path)
    assert found.name == f"kheaders-{os.uname().release}"
    assert origin == str(archive)
    assert not (found.parent / "outside").exists()
    archive.write_bytes(b"not read again")
    assert find(tmp_path)[0] == found


def test_a_broken_archive_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "sys/kernel/kheaders.tar.xz"
    write(tmp_path, "sys/kernel/kheaders.tar.xz", text="no archive")
    with pytest.raises(WardmeshError, match="cannot unpack the kernel's headers"):
        find_headers(Paths(tmp_path), {}, RUNNING)
    assert archive.is_file()
