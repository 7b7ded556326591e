# SPDX-License-Identifier: Apache-2.0
"""Sysctls with a journal, so that cleanup can give back what an operator had."""

from __future__ import annotations

import json
from pathlib import Path

from wardmesh.host.files import read_bytes, write_atomic


class Sysctls:
    """Sets values below /proc/sys and remembers the first value that it found."""

    def __init__(self, journal: Path, base: Path = Path("/proc/sys")) -> None:
        self._journal = journal
        self._base = base

    def _originals(self) -> dict[str, str]:
        return dict(json.loads(read_bytes(self._journal) or b"{}"))

    def ensure(self, name: str, value: str) -> bool:
        """Set `net/ipv4/…` to value; True when it had to change. A vanished device is not an error."""
        path = self._base / name
        try:
            current = path.read_text().strip()
        except OSError:
            return False
        if current == value:
            return False
        originals = self._originals()
        if name not in originals:
            originals[name] = current
            write_atomic(self._journal, json.dumps(originals, sort_keys=True).encode(), 0o600)
        path.write_text(value)
        return True

    def restore(self) -> list[str]:
        """Give back every original value and forget the journal."""
        restored = []
        for name, value in self._originals().items():
            path = self._base / name
            if path.exists():
                path.write_text(value)
                restored.append(f"sysctl {name} = {value}")
        self._journal.unlink(missing_ok=True)
        return restored
