# SPDX-License-Identifier: Apache-2.0
"""The files of the page: a fixed list, read once from the package, which may be a zip file.

No path of a client is ever opened.
"""

from __future__ import annotations

import gzip
import hashlib
import pkgutil
from dataclasses import dataclass

from wardmesh.model.errors import WardmeshError

_HTML, _CSS = "text/html; charset=utf-8", "text/css; charset=utf-8"
_JS, _TEXT = "text/javascript; charset=utf-8", "text/plain; charset=utf-8"
LIBRARY = "cytoscape.esm.min.mjs"
FILES = {
    "index.html": _HTML,
    "style.css": _CSS,
    "app.js": _JS,
    "filters.js": _JS,
    "layout.js": _JS,
    "list.js": _JS,
    "looks.js": _JS,
    "map.js": _JS,
    "store.js": _JS,
    "table.js": _JS,
    "icon.svg": "image/svg+xml",
    LIBRARY: _JS,
    "cytoscape.LICENSE.txt": _TEXT,
}
INDEX = "/"
PREFIX = "/static/"


@dataclass(frozen=True)
class Asset:
    """One file. packed: by gzip; tag: for If-None-Match."""

    kind: str
    data: bytes
    packed: bytes
    tag: str


def load_assets() -> dict[str, Asset]:
    """By the path at which each is served."""
    return {
        INDEX if name == "index.html" else PREFIX + name: _load(name, kind) for name, kind in FILES.items()
    }


def _load(name: str, kind: str) -> Asset:
    try:
        data = pkgutil.get_data(__package__ or "", f"static/{name}") or b""
    except OSError as error:
        raise WardmeshError(
            "a file of the page is missing", where=name, why=str(error), remedy="install the agent again"
        ) from error
    tag = hashlib.sha256(data).hexdigest()[:32]
    return Asset(kind, data, gzip.compress(data, 6, mtime=0), f'"{tag}"')
