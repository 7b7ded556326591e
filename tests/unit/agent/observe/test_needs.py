# SPDX-License-Identifier: Apache-2.0
"""A host without the libraries of observing: everything else runs, and the verb says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.loading import REPO

WITHOUT = """
import sys
sys.path.insert(0, {agent!r})
import types
for name in {missing!r}:
    sys.modules[name] = None
    if name == "grpc.aio":  # grpcio before 1.32: there is a grpc, without that in it
        sys.modules["grpc"] = types.ModuleType("grpc")
        del sys.modules[name]
from wardmesh.cli.main import main
sys.exit(main({words!r}))
"""


def run(missing: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(agent=str(REPO / "agent"), missing=missing, words=list(words))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


BOTH = ["grpc", "google.protobuf"]


def test_other_verbs_do_not_need_them(tmp_path: Path) -> None:
    done = run(BOTH, "--root", str(tmp_path), "config", "get", "hubble.enabled")
    assert (done.returncode, done.stdout.strip()) == (0, "false")


@pytest.mark.parametrize(
    ("missing", "words", "told"),
    [
        (BOTH, ["observe"], "python3-protobuf is not installed"),
        (["grpc"], ["observe"], "python3-grpcio is not installed"),
        (["grpc.aio"], ["relay"], "python3-grpcio is too old"),
        (["grpc"], ["relay"], "python3-grpcio is not installed"),
    ],
)
def test_the_missing_package_is_named(
    tmp_path: Path, missing: list[str], words: list[str], told: str
) -> None:
    done = run(missing, "--root", str(tmp_path), *words)
    assert done.returncode in (1, 78)
    assert told in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_file_is_read_without_grpc(tmp_path: Path) -> None:
    file = tmp_path / "flows.json"
    file.write_text(
        '{"flow":{"time":"2023-11-14T22:13:20Z","IP":{"source":"10.0.0.1","destination":"10.0.0.2"}}}\n'
    )
    done = run(["grpc"], "observe", "--input-file", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Nov 14 22:13:20.000: 10.0.0.1 (unknown) <> 10.0.0.2 (unknown)")
