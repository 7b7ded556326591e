# SPDX-License-Identifier: Apache-2.0
"""Generations of maps and programs on the bpf file system.

    <bpffs>/wardmesh/maps-<contract>/   one pin for each map
    <bpffs>/wardmesh/prog-<digest>/     one pin for each program
    <bpffs>/wardmesh/clsact-<ifindex>/  this device's clsact qdisc was made by us

A generation is built in a folder new-…, then renamed: whatever is there under its final name is
whole. What is to go is renamed to old-… first. Left-overs of a killed agent are swept by the next one.
Names hold no dots, the bpf file system refuses them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from wardmesh.datapath import bpfsys
from wardmesh.datapath.contract import MapSpec
from wardmesh.model.errors import WardmeshError


class Pins:
    """The folder <bpffs>/wardmesh."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Mount the bpf file system where nobody has, make our folder, sweep left-overs."""
        if not bpfsys.is_bpffs(self.root.parent):
            try:
                self.root.parent.mkdir(parents=True, exist_ok=True)
                bpfsys.mount_bpffs(self.root.parent)
            except OSError as error:
                raise WardmeshError(
                    "no bpf file system",
                    where=str(self.root.parent),
                    why=error.strerror or str(error),
                    remedy=f"mount -t bpf bpf {self.root.parent}",
                ) from error
        self.root.mkdir(mode=0o700, exist_ok=True)
        for leftover in (*self.root.glob("new-*"), *self.root.glob("old-*")):
            shutil.rmtree(leftover)

    def maps(self, contract: str) -> Path:
        """Folder of a generation of maps."""
        return self.root / f"maps-{contract}"

    def programs(self, digest: str) -> Path:
        """Folder of a generation of programs."""
        return self.root / f"prog-{digest}"

    def build(self, final: Path, fill: Callable[[Path], None]) -> None:
        """Fill a new folder, then give it its final name; an incomplete predecessor makes way."""
        fresh = self.root / f"new-{final.name}-{os.getpid()}"
        fresh.mkdir(mode=0o700)
        fill(fresh)
        self.remove(final)
        fresh.rename(final)

    def remove(self, folder: Path) -> None:
        """Remove a folder so that nobody ever sees half of it under its name."""
        if folder.is_dir():
            going = self.root / f"old-{folder.name}"
            folder.rename(going)
            shutil.rmtree(going)

    def stale(self, current: Iterable[Path]) -> list[Path]:
        """Generations other than the current ones."""
        keep = set(current)
        found = (*self.root.glob("maps-*"), *self.root.glob("prog-*"))
        return sorted(folder for folder in found if folder not in keep)

    def remove_all(self) -> None:
        """Remove every pin; attached programs live on until they are detached."""
        if self.root.is_dir():
            shutil.rmtree(self.root)

    # --- which clsact qdiscs are ours ---

    def _clsact(self, ifindex: int) -> Path:
        return self.root / f"clsact-{ifindex}"

    def note_clsact(self, ifindex: int) -> None:
        """Remember, before it is made, that this device's clsact is ours; a reboot forgets both."""
        self._clsact(ifindex).mkdir(exist_ok=True)

    def forget_clsact(self, ifindex: int) -> None:
        """It is gone, or another's."""
        with suppress(FileNotFoundError):
            self._clsact(ifindex).rmdir()

    def made_clsact(self, ifindex: int) -> bool:
        """Did we make the clsact of this device?"""
        return self._clsact(ifindex).is_dir()


def inode_of(folder: Path) -> int:
    """Tells one making of a folder of pins from the next; 0 where there is none."""
    try:
        return folder.stat().st_ino
    except OSError:
        return 0


def open_pins(folder: Path, names: Iterable[str]) -> dict[str, int] | None:
    """Descriptors by name, or None when one is missing; the caller closes them."""
    opened: dict[str, int] = {}
    try:
        for name in names:
            opened[name] = bpfsys.obj_get(folder / name)
    except OSError:
        close_all(opened)
        return None
    return opened


def close_all(descriptors: Mapping[str, int]) -> None:
    """Close descriptors."""
    for fd in descriptors.values():
        os.close(fd)


def create_maps(folder: Path, specs: Iterable[MapSpec], first: Mapping[str, bytes]) -> None:
    """Create every map, write the first row of those that must never be empty, pin."""
    for spec in specs:
        try:
            fd = bpfsys.map_create(
                spec.name, spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags
            )
        except OSError as error:
            raise WardmeshError(
                f"cannot create the map {spec.name} with {spec.max_entries} entries",
                where="bpf.membersMax",
                why=error.strerror or str(error),
                remedy="lower bpf.membersMax, or run as root on a kernel with eBPF",
            ) from error
        try:
            if spec.name in first:
                bpfsys.map_update(fd, bytes(spec.key_size), first[spec.name])
            bpfsys.obj_pin(fd, folder / spec.name)
        finally:
            os.close(fd)
