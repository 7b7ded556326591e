# SPDX-License-Identifier: Apache-2.0
"""Build the agent as one file: a zipapp whose bytes depend on the sources alone.

Used as a script (build_zipapp.py OUT) and by the collection's agent_bundle action. Stdlib only.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/python3 -I\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = b"from wardmesh.cli.main import main\nimport sys\nsys.exit(main())\n"


def contents(root: Path) -> dict[str, bytes]:
    """Name in the archive to bytes."""
    found = {"__main__.py": _MAIN}
    for folder, target, pattern in (
        ("agent/wardmesh", "wardmesh", "*.py"),
        ("bpf", "wardmesh/bpf", "*.[ch]"),
        ("agent/systemd", "wardmesh/systemd", "*.service"),
    ):
        base = root / folder
        for path in base.rglob(pattern):
            found[f"{target}/{path.relative_to(base).as_posix()}"] = path.read_bytes()
    return found


def build(root: Path) -> bytes:
    """The zipapp: sorted names, fixed times and modes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(contents(root).items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            archive.writestr(info, data)
    return SHEBANG + buffer.getvalue()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_bytes(build(Path(__file__).resolve().parent.parent))
    target.chmod(0o755)
