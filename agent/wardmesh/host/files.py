# SPDX-License-Identifier: Apache-2.0
"""Atomic files: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import grp
import os
import stat
import tempfile
from pathlib import Path
from typing import Optional

from wardmesh.model.errors import WardmeshError

GROUP = "wardmesh"

Stamp = Optional[tuple[int, int]]  # time of writing in ns, inode


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write beside the target with the final mode, sync, rename; on error the old file stays."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise WardmeshError(
            "cannot write file",
            where=str(path),
            why=os.strerror(error.errno or 0),
            remedy="free space or correct the permissions; the old content is untouched",
        ) from error


def rename(old: Path, new: Path) -> None:
    """Give a file another name in the same folder, in one step that lasts over a loss of power."""
    try:
        os.replace(old, new)
        folder = os.open(new.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise WardmeshError(
            "cannot rename file",
            where=f"{old} to {new}",
            why=os.strerror(error.errno or 0),
            remedy="correct the permissions, or free space",
        ) from error


def read_bytes(path: Path) -> bytes | None:
    """The content, or None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WardmeshError(
            "cannot read file",
            where=str(path),
            why=os.strerror(error.errno or 0),
            remedy="run as root and check the permissions",
        ) from error


def stamp(path: Path) -> Stamp:
    """What changes whenever the file is replaced or written; None where there is none to be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def open_to_group(path: Path) -> None:
    """Give a socket to the group wardmesh; where there is no such group it stays root's alone."""
    try:
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    except (KeyError, PermissionError):
        return
    os.chmod(path, 0o660)


def check_private(path: Path) -> None:
    """Refuse a private key that others can read, or whose folder others can write to."""
    for place, kind in ((path, stat.S_ISREG), (path.parent, stat.S_ISDIR)):
        info = place.lstat()
        open_to_others = info.st_mode & (0o077 if place is path else 0o022)
        if not kind(info.st_mode) or open_to_others or info.st_uid != os.geteuid():
            mode = "600" if place is path else "700"
            raise WardmeshError(
                "wrong permissions on the private key",
                where=str(place),
                why=f"mode {stat.S_IMODE(info.st_mode):04o}, owner {info.st_uid}; others may know the key",
                remedy=f"chown root {place}; chmod {mode} {place}, or remove the key for a new one",
            )
