# SPDX-License-Identifier: Apache-2.0
"""One archive of what is needed to look into a host from afar: bounded in size and time, without secrets.

Each item may fail alone; manifest.json says which did, and why.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wardmesh.health.redaction import Redactor
from wardmesh.model.errors import WardmeshError

ITEM_BYTES = 4 << 20
TOTAL_BYTES = 64 << 20
SECONDS = 120.0
TEXT, JSON, YAML = "text", "json", "yaml"
_CUT = "[… the beginning was cut off …]\n"


@dataclass(frozen=True)
class Item:
    """A file of the archive. kind: text, json or yaml; collect: gives its content, or raises.

    by_name: secrets are told by the names of their fields, too.
    """

    name: str
    kind: str
    collect: Callable[[], Any]
    by_name: bool = True


@dataclass(frozen=True)
class Collected:
    """A row of the manifest; error: "" where all is well."""

    name: str
    bytes: int
    seconds: float
    error: str


def redacted(item: Item, content: Any, redactor: Redactor) -> bytes:
    """The content without secrets, as bytes; what cannot be parsed is refused: its secrets are not found."""
    if item.kind == TEXT:
        return redactor.text(str(content)).encode(errors="replace")
    clean = redactor.document(_parsed(item.kind, content), by_name=item.by_name)
    if item.kind == JSON:
        return json.dumps(clean, indent=1, default=str).encode() + b"\n"
    return str(yaml.safe_dump_all(clean, allow_unicode=True, sort_keys=False)).encode()


def _parsed(kind: str, content: Any) -> Any:
    try:
        if kind == YAML:
            if any(
                isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, Loader=yaml.SafeLoader)
            ):
                raise ValueError("YAML aliases are not accepted")
            return list(yaml.safe_load_all(content))
        return json.loads(content or "null") if isinstance(content, str) else content
    except (ValueError, yaml.YAMLError) as error:
        raise WardmeshError(
            f"left out: no {kind.upper()}, so that its secrets cannot be told apart",
            why=str(error).splitlines()[0],
        ) from error


def bounded(data: bytes, most: int) -> bytes:
    """The end of it: the newest lines tell most."""
    mark = _CUT.encode()
    if len(data) <= most:
        return data
    return mark + data[len(data) - most + len(mark) :] if most > len(mark) else b""


def collect(
    items: Iterable[Item],
    redactor: Redactor,
    *,
    clock: Callable[[], float] = time.monotonic,
    seconds: float = SECONDS,
    total: int = TOTAL_BYTES,
) -> tuple[dict[str, bytes], list[Collected]]:
    """Content by name, and the manifest. When time or room is up, the rest is left out and said to be."""
    found: dict[str, bytes] = {}
    rows = []
    end, room = clock() + seconds, total
    for item in items:
        start, error, data = clock(), "", b""
        if start >= end or room <= 0:
            error = "left out: out of time" if start >= end else "left out: the archive is full"
        else:
            try:
                data = bounded(redacted(item, item.collect(), redactor), min(ITEM_BYTES, room))
            except WardmeshError as problem:
                error = redactor.text(str(problem))
            except Exception as problem:  # noqa: BLE001  one broken item must not cost the others
                error = redactor.text(f"{type(problem).__name__}: {problem}")
        if not error:
            found[item.name] = data
            room -= len(data)
        rows.append(Collected(item.name, len(data), round(clock() - start, 3), error))
    return found, rows


def manifest(rows: Iterable[Collected]) -> bytes:
    """manifest.json."""
    return json.dumps({"items": [vars(row) for row in rows]}, indent=1).encode() + b"\n"


def write_archive(target: Path, folder: str, files: dict[str, bytes]) -> None:
    """A .tar.gz that only its owner can read, under its name only once it is whole."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
        with os.fdopen(handle, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, data in sorted(files.items()):
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
                archive.addfile(info, io.BytesIO(data))
        os.replace(temporary, target)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise WardmeshError(
            "cannot write the archive",
            where=str(target),
            why=error.strerror or str(error),
            remedy="name another place: wardmesh sysdump --output FILE",
        ) from error
