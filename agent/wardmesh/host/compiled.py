# SPDX-License-Identifier: Apache-2.0
"""The agent compiled for this host's Python, beside its one file.

Python compiles what it imports from a zip file at every start, which took half of the agent's. The zipapp has
to be the same bytes for every Python, so it has no compiled modules; each host makes them once, when the file
comes. Without them, or under another Python, everything works as before, and slower.
"""

from __future__ import annotations

import importlib.util
import io
import marshal
import sys
import zipfile
from pathlib import Path

from wardmesh.host.files import write_atomic

_UNCHECKED = (1).to_bytes(4, "little")  # PEP 552: named by its source's hash, which nobody compares


def kept_path(file: Path) -> Path:
    """Where what was compiled of this zipapp lies; its __main__ looks there."""
    return file.with_name(f"{file.name.removesuffix('.pyz')}.{sys.implementation.cache_tag}.zip")


def keep_compiled(file: Path) -> Path:
    """Compile every module of the zipapp; WardmeshError where it cannot be written. The sources are in it,
    too, for tracebacks, and the data that the package reads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as kept:
        for name in source.namelist():
            data = source.read(name)
            kept.writestr(name, data)
            if name.endswith(".py"):
                code = compile(data, f"{file}/{name}", "exec", dont_inherit=True)
                head = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(data)
                kept.writestr(f"{name}c", head + marshal.dumps(code), zipfile.ZIP_STORED)
    target = kept_path(file)
    write_atomic(target, buffer.getvalue())
    return target
