# SPDX-License-Identifier: Apache-2.0
"""Build the agent as one file: a zipapp whose bytes depend on the sources alone.

Used as a script (build_zipapp.py OUT) and by the collection's plugins, by path. Stdlib only.
The bytes: sorted names, one fixed time, mode and compression for all, no compiled modules.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

# -I: neither the caller's folder and environment nor user packages decide what the agent imports.
SHEBANG = b"#!/usr/bin/python3 -I\n"
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file knows
_MODE = 0o100644
_UNIX = 3
_LEVEL = 9
_MAIN = "agent/zipapp_main.py"
_PARTS = (
    ("agent/wardmesh", "wardmesh", "*.py"),
    ("agent/wardmesh", "wardmesh", "*.pb"),
    ("agent/wardmesh", "wardmesh", "observe/ui/static/*"),
    ("bpf", "wardmesh/bpf", "*.[ch]"),
    ("agent/systemd", "wardmesh/systemd", "*.service"),
)


def contents(root: Path) -> dict[str, bytes]:
    """Name in the archive to bytes, from a checkout or an installed collection."""
    found = {"__main__.py": (root / _MAIN).read_bytes()}
    for folder, target, pattern in _PARTS:
        base = root / folder
        for path in base.rglob(pattern):
            found[f"{target}/{path.relative_to(base).as_posix()}"] = path.read_bytes()
    return found


def build(root: Path) -> bytes:
    """The zipapp of the sources below root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name, data in sorted(contents(root).items()):
            info = zipfile.ZipInfo(name, _TIME)
            info.external_attr = _MODE << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = _UNIX
            archive.writestr(info, data)
    return SHEBANG + buffer.getvalue()


def main(argv: list[str]) -> int:
    """Write the zipapp of this checkout to the file named on the command line."""
    if len(argv) != 2:
        print("usage: build_zipapp.py OUT", file=sys.stderr)
        return 2
    target = Path(argv[1])
    target.write_bytes(build(Path(__file__).resolve().parent.parent))
    target.chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
