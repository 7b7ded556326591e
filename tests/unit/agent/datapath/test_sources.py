# SPDX-License-Identifier: Apache-2.0
"""The eBPF sources as one text, from a checkout and from a zipapp."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from wardmesh.datapath import sources
from wardmesh.model.errors import WardmeshError


@pytest.mark.parametrize("name", ["guard.c", "firewall.c"])
def test_every_own_include_is_in_place_once(repo: Path, name: str) -> None:
    text = sources.flatten(name)
    assert '#include "' not in text
    assert "#pragma once" not in text
    included = re.findall(r'#include "(.+)"', (repo / "bpf" / name).read_text())
    assert len(included) > 4
    for header in included:
        assert text.count(f'#line 1 "bpf/{header}"') == 1


def test_line_numbers_stay_true(repo: Path) -> None:
    """Every line of every file is found under its own number, as the compiler will tell it."""
    place, number, seen = "", 0, 0
    for line in sources.flatten().splitlines():
        marker = re.match(r'#line (\d+) "bpf/(.+)"', line)
        if marker:
            number, place = int(marker[1]), marker[2]
            continue
        original = (repo / "bpf" / place).read_text().splitlines()[number - 1]
        assert line == original or original == "#pragma once"
        number += 1
        seen += 1
    assert seen > 300


def test_a_missing_source_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WardmeshError, match="a source of the eBPF programs is missing"):
        sources.read_source("lib/nothing.h")


def test_the_zipapp_carries_the_same(repo: Path, tmp_path: Path) -> None:
    archive = tmp_path / "agent.pyz"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted((repo / "agent/wardmesh").rglob("*.py")):
            bundle.write(path, path.relative_to(repo / "agent"))
        for path in sorted((repo / "bpf").rglob("*.[ch]")):
            bundle.write(path, Path("wardmesh/bpf") / path.relative_to(repo / "bpf"))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from wardmesh.datapath.sources import flatten\n"
        "import wardmesh.datapath.compiler\n"
        "sys.stdout.write(flatten())\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(archive)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout == sources.flatten()


def test_the_compiling_child_needs_no_other_package(repo: Path) -> None:
    """It runs under a Python that has bcc and nothing of ours; -I and -S leave the standard library."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import wardmesh.datapath.compiler\n"
        "print(*(name for name in sys.modules if name.startswith('wardmesh')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(repo / "agent")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["wardmesh", "wardmesh.datapath", "wardmesh.datapath.compiler"]
