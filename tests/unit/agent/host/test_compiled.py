# SPDX-License-Identifier: Apache-2.0
"""The one file and what was compiled of it: used where it is ours, and missed by nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.loading import REPO, load

from wardmesh.host.compiled import keep_compiled, kept_path

builder = load("agent/build_zipapp.py")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent as it is installed, under a link, with what was compiled of it."""
    folder = tmp_path_factory.mktemp("lib")
    file = folder / "wardmesh-0123456789ab.pyz"
    file.write_bytes(builder.build(REPO))
    (folder / "wardmesh").symlink_to(file.name)
    assert keep_compiled(file) == kept_path(file)
    return file


def imported(program: Path) -> tuple[str, str]:
    """Where a run took its modules from, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-I", "-v", str(program.with_name("wardmesh")), "version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("import 'wardmesh.cli.main'"))
    return line, done.stdout


def test_it_runs_from_what_was_compiled(program: Path) -> None:
    line, printed = imported(program)
    assert kept_path(program).name in line
    assert printed.startswith("wardmesh ")


def _writable(kept: Path) -> None:
    kept.chmod(0o664)


def _strangers(kept: Path) -> None:
    os.chown(kept, 12345, 12345)


def _cut_short(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes()[:-5000])


@pytest.mark.parametrize("spoil", [_writable, _strangers, _cut_short, Path.unlink])
def test_what_others_could_have_made_or_is_not_whole_does_not_count(
    program: Path, spoil: Callable[[Path], None]
) -> None:
    kept = kept_path(program)
    try:
        spoil(kept)
        line, printed = imported(program)
        assert kept.name not in line and printed.startswith("wardmesh ")
    finally:
        kept.unlink(missing_ok=True)
        keep_compiled(program)


def test_its_modules_are_compiled_and_tracebacks_show_their_lines(program: Path) -> None:
    code = (
        "import sys, traceback; sys.path.insert(0, sys.argv[1]); from wardmesh.host import files\n"
        "print(files.__file__)\ntry: files.stamp(1)\nexcept AttributeError: traceback.print_exc()"
    )
    argv = [sys.executable, "-I", "-c", code, str(kept_path(program))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"{kept_path(program)}/wardmesh/host/files.pyc"
    assert f"{program}/wardmesh/host/files.py" in done.stderr and "found = path.stat()" in done.stderr
