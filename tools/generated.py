# SPDX-License-Identifier: Apache-2.0
"""What the generators of reference pages share: write the pages, or say which are stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def write_or_check(pages: Mapping[Path, str], description: str | None) -> int:
    """Write the pages (path to text); with --check write nothing and return 1 when one is stale."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 when stale")
    check = parser.parse_args().check
    stale = [
        path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            print(f"{path.relative_to(REPO)} is stale: run {sys.argv[0]}", file=sys.stderr)
        else:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if check and stale else 0
