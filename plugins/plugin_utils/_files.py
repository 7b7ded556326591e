# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the controller that action plugins read. Private to the collection."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable


def read(sources: Iterable[str]) -> dict[str, str]:
    """Name and text of each file; folders stand for their YAML files."""
    found = {}
    for source in sources:
        paths = sorted(glob.glob(os.path.join(source, "*.y*ml"))) if os.path.isdir(source) else [source]
        for path in paths:
            with open(path, encoding="utf-8") as stream:
                found[os.path.basename(path)] = stream.read()
    return found


def read_bytes(path: str | None, purpose: str) -> bytes:
    """The fleet map that the rollout of the mesh left on the controller."""
    if not path or not os.path.exists(path):
        raise OSError("%s: no fleet map %s; run site.yml first" % (path, purpose))
    with open(path, "rb") as stream:
        return stream.read()
