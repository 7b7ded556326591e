# SPDX-License-Identifier: Apache-2.0
"""The parent's side of compiling: digest of what would be compiled, the child's run, its errors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import wardmesh
from wardmesh.datapath.compiler import EXIT_NO_BCC
from wardmesh.datapath.headers import find_headers
from wardmesh.datapath.sources import flatten
from wardmesh.host.paths import Paths
from wardmesh.host.process import run
from wardmesh.model.errors import WardmeshError

_TIMEOUT = 900  # seconds; a small emulated machine needs three minutes for the firewall
_BCC_REMEDY = "install python3-bpfcc (Debian, Ubuntu) or python3-bcc (RHEL)"
_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from wardmesh.datapath.compiler import main
sys.exit(main())
"""
# Looks without importing: importing bcc would load LLVM at every start of the agent.
_VERSION = """
import importlib.util, os, re, sys
spec = importlib.util.find_spec("bcc")
if spec is None or not spec.origin:
    sys.exit(3)
path = os.path.join(os.path.dirname(spec.origin), "version.py")
text = open(path).read() if os.path.exists(path) else ""
found = re.search(r"__version__\\s*=\\s*['\\"]([^'\\"]+)", text)
print(found.group(1) if found else "unknown")
"""


@dataclass(frozen=True)
class Build:
    """Everything that decides what the compiled programs are."""

    source: str
    cflags: tuple[str, ...]
    release: str
    bcc: str
    contract: str

    @property
    def digest(self) -> str:
        """Twelve hex digits: the name of a generation of programs."""
        terms = json.dumps([self.source, self.cflags, self.release, self.bcc, self.contract])
        return hashlib.sha256(terms.encode()).hexdigest()[:12]


def plan_build(
    python: str, maps: Path, contract: str, source: str = "guard.c", cflags: tuple[str, ...] = ()
) -> Build:
    """What would be compiled now of a file of bpf/, for the maps pinned in the given folder."""
    kernel = os.uname()
    return Build(
        source=flatten(source),
        # Kernel headers warn in plenty under a newer clang; errors are always shown.
        cflags=("-Wno-everything", f'-DWM_MAPS="{maps}"', *cflags),
        release=f"{kernel.release} {kernel.version} {kernel.machine}",
        bcc=_bcc_version(python),
        contract=contract,
    )


def _bcc_version(python: str) -> str:
    done = run([python, "-I", "-c", _VERSION], check=False)
    if done.returncode:
        raise _no_bcc(python, done.stderr.strip() or "no module named bcc")
    return done.stdout.strip()


def _no_bcc(python: str, why: str) -> WardmeshError:
    return WardmeshError(
        "bcc is missing, the eBPF programs cannot be compiled", where=python, why=why, remedy=_BCC_REMEDY
    )


def compile_and_pin(build: Build, pins: Mapping[str, Path], python: str, paths: Paths) -> str:
    """Run the child: it compiles, loads and pins every program at its path. Returns what it reports."""
    headers = find_headers(paths)
    request = {
        "source": build.source,
        "cflags": build.cflags,
        "headers": str(headers.tree),
        "pins": {name: str(path) for name, path in pins.items()},
    }
    package = str(Path(wardmesh.__file__).parents[1])  # the folder or the zipapp that holds wardmesh/
    done = run(
        [python, "-I", "-c", _CHILD, package], stdin=json.dumps(request), timeout=_TIMEOUT, check=False
    )
    if done.returncode == EXIT_NO_BCC:
        raise _no_bcc(python, _fold(done.stderr))
    if done.returncode:
        raise WardmeshError(
            "the eBPF programs cannot be compiled or loaded",
            where=f"eBPF sources with bcc {build.bcc}, headers {headers.origin}",
            why=f"exit status {done.returncode}: {_fold(done.stderr)}",
            remedy="install the headers of the running kernel; root and CAP_BPF are needed",
        )
    return str(done.stdout)


def _fold(text: str, lines: int = 6) -> str:
    """The telling lines of a compiler's or the verifier's output, on one line."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    errors = [row for row in rows if "error:" in row or "Error" in row]
    return " | ".join([*errors[:lines], *(row for row in rows[-lines:] if row not in errors)]) or "no message"
