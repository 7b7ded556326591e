# SPDX-License-Identifier: Apache-2.0
"""`make format`: the formatters that `make lint` checks, over the whole checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from checks.lint import project_files
from checks.running import REPO


def main() -> int:
    """Format in place; the first exit status that is not 0, else 0."""
    bin_dir = Path(sys.executable).parent
    commands = [
        [str(bin_dir / "ruff"), "check", "--fix", "--quiet", "--select=I", "."],
        [str(bin_dir / "ruff"), "format", "--quiet", "."],
    ]
    c_files = [str(path) for path in project_files() if path.suffix in (".c", ".h")]
    if c_files:
        commands.append([str(bin_dir / "clang-format"), "-i", *c_files])
    return next((status for argv in commands if (status := subprocess.call(argv, cwd=REPO)) != 0), 0)


if __name__ == "__main__":
    sys.exit(main())
