# SPDX-License-Identifier: Apache-2.0
"""Flows into a file, in the JSON form that `hubble observe --input-file` reads, rotated by size.

The exporter is one more reader of the ring: a slow disk makes it miss flows, which the file says, and never
makes the observer wait. A full disk is counted and tried again.
"""

from __future__ import annotations

import gzip
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.convert import FieldMask
from wardmesh.observe.filters import compile_filters
from wardmesh.observe.flow import Flow, Lost
from wardmesh.observe.getflows import Encoder
from wardmesh.observe.jsonform import filters_of, to_json
from wardmesh.observe.proto import message
from wardmesh.observe.ring import Ring
from wardmesh.observe.settings import Export
from wardmesh.observe.stretch import Entry

_PATIENCE = 0.5  # seconds after which a stop is noticed
_RETRY = 5.0  # seconds that a disk which failed is left alone
_STAMP = "%Y-%m-%dT%H-%M-%S"


class RotatedFile:
    """A file that is renamed when it is full: name-TIME.suffix beside it, the newest so many kept."""

    def __init__(self, export: Export, clock: Callable[[], float] = time.time) -> None:
        self._export = export
        self._clock = clock
        self._stream: TextIO | None = None
        self._size = 0

    def write(self, line: str) -> None:
        """One line with its end; OSError as the disk has it. Nothing of a line stays where it failed."""
        data = line + "\n"
        length = len(data.encode("utf-8", "surrogatepass"))
        stream = self._stream or self._open()
        if self._size and self._size + length > self._export.max_bytes:
            self._rotate()
            stream = self._open()
        stream.write(data)
        self._size += length

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._export.path

    def flush(self) -> None:
        """Hand everything to the kernel."""
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _open(self) -> TextIO:
        path = self._export.path
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._stream = os.fdopen(handle, "a", encoding="utf-8", errors="replace")
        self._size = os.fstat(handle).st_size
        return self._stream

    def _rotate(self) -> None:
        self.close()
        path = self._export.path
        now = self._clock()
        stamp = time.strftime(_STAMP, time.gmtime(now)) + f".{int(now % 1 * 1000):03d}"
        target = path.with_name(f"{path.stem}-{stamp}{path.suffix}")
        number = 1
        while target.exists() or target.with_name(target.name + ".gz").exists():
            target = path.with_name(f"{path.stem}-{stamp}.{number}{path.suffix}")
            number += 1
        path.rename(target)
        if self._export.compress:
            _compress(target)
        for old in self.backups()[self._export.backups :]:
            old.unlink(missing_ok=True)

    def backups(self) -> list[Path]:
        """Rotated files, the newest first."""
        path = self._export.path
        found = [
            item
            for item in path.parent.glob(f"{path.stem}-*{path.suffix}*")
            if item.name.endswith((path.suffix, f"{path.suffix}.gz")) and item != path
        ]
        return sorted(found, key=lambda item: (item.stat().st_mtime_ns, item.name), reverse=True)


def _compress(path: Path) -> None:
    target = path.with_name(path.name + ".gz")
    with path.open("rb") as plain, gzip.open(target, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed)
    target.chmod(0o640)
    path.unlink()


class Exporter:
    """Writes what the ring gets; `written`, `failed` and `missed` count flows."""

    def __init__(self, ring: Ring, export: Export, node_name: Callable[[], str]) -> None:
        """WardmeshError where a filter or the field mask of the configuration cannot be read."""
        allow = filters_of(export.allow, "hubble.export.static.allowList")
        deny = filters_of(export.deny, "hubble.export.static.denyList")
        self._keep = compile_filters(allow, deny)
        paths = list(export.field_mask)
        self._mask = FieldMask(message("google.protobuf.FieldMask")(paths=paths))
        self._ring = ring
        self._file = RotatedFile(export)
        self._encoder = Encoder(node_name)
        self._stop = threading.Event()
        self.written = self.failed = self.missed = 0
        self.error: WardmeshError | None = None
        self._thread = threading.Thread(target=self._run, name="export", daemon=True)

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def close(self) -> None:
        """Write what is there, and stop."""
        self._stop.set()
        self._ring.wake()
        self._thread.join()

    def _run(self) -> None:
        cursor = self._ring.oldest
        while True:
            entries, cursor = self._ring.take(cursor)
            if entries:
                self.write(entries)
            elif self._stop.is_set() or not self._ring.wait(cursor, _PATIENCE):
                break
        try:
            self._file.close()
        except OSError as error:
            self._failed(error, 0)

    def write(self, entries: Sequence[Entry]) -> None:
        """A batch of entries into the file; a failing disk is counted and costs these flows only."""
        lines = [line for line in map(self._line, entries) if line]
        try:
            for line in lines:
                self._file.write(line)
            self._file.flush()
        except OSError as error:
            self._failed(error, len(lines))
            self._stop.wait(_RETRY)
        else:
            self.written += len(lines)
            self.error = None

    def _line(self, entry: Entry) -> str:
        if isinstance(entry, Lost):
            self.missed += entry.number
        elif not self._keep(entry):
            return ""
        made = self._encoder.message(entry, self._mask)
        if isinstance(entry, Flow):
            made.flow.ClearField(
                "traffic"
            )  # upstream's client would warn about a field that it does not know
        return to_json(made)

    def _failed(self, error: OSError, count: int) -> None:
        self.failed += count
        self.error = WardmeshError(
            "cannot write flows",
            where=str(self._file.path),
            why=error.strerror or str(error),
            remedy="free space, or correct hubble.export.static.filePath; the flows meanwhile are counted",
        )
        try:
            self._file.close()
        except OSError:
            return  # what the disk did not take is counted already
