# SPDX-License-Identifier: Apache-2.0
"""The eBPF sources as one text, read from the package (zipapp) or from the checkout's bpf/ folder."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

from wardmesh.model.errors import WardmeshError

_INCLUDE = re.compile(r'^#include "([^"]+)"\s*$')
_ONCE = "#pragma once"


def read_source(name: str) -> str:
    """One file of bpf/, by its path in that folder."""
    try:
        packed = pkgutil.get_data("wardmesh", f"bpf/{name}")
    except OSError:
        packed = None
    if packed is not None:
        return packed.decode()
    checkout = Path(__file__).resolve().parents[3] / "bpf" / name
    try:
        return checkout.read_text(encoding="utf-8")
    except OSError as error:
        raise WardmeshError(
            "a source of the eBPF programs is missing",
            where=str(checkout),
            why=error.strerror or str(error),
            remedy="install the agent again",
        ) from error


def flatten(name: str = "guard.c") -> str:
    """The file with its own includes in place, each once; #line keeps the compiler's messages true."""
    return "\n".join(_lines(name, set())) + "\n"


def _lines(name: str, seen: set[str]) -> list[str]:
    seen.add(name)
    out = [f'#line 1 "bpf/{name}"']
    for number, line in enumerate(read_source(name).splitlines(), 1):
        match = _INCLUDE.match(line)
        if match is None:
            out.append("" if line.strip() == _ONCE else line)
        elif match[1] not in seen:
            out += [*_lines(match[1], seen), f'#line {number + 1} "bpf/{name}"']
    return out
