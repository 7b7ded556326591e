# SPDX-License-Identifier: Apache-2.0
"""SIGKILL before every single step of bringing the guard up or upgrading it: the next start repairs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bpf import stub
from tests.bpf.harness import FLEET, LISTEN_PORT, PYTHON, TestPaths, bpf_filesystem
from tests.bpf.killed import bring_up_and_die
from tests.bpf.netns import Namespace, ip, tc

from wardmesh.datapath import bpfsys, contract, loader
from wardmesh.datapath.contract import EGRESS, INGRESS, PROGRAMS
from wardmesh.datapath.guard import Guard
from wardmesh.datapath.tc import PREFIX, Tc

pytestmark = pytest.mark.netns

REPO = Path(__file__).resolve().parents[2]
MOST_STEPS = 80


@pytest.fixture
def paths(privileged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestPaths]:
    """A fresh bpf file system; small programs instead of the compiler."""
    monkeypatch.setattr(loader, "compile_and_pin", stub.compile_and_pin)
    with bpf_filesystem(tmp_path) as found:
        yield found


@pytest.fixture
def ifindex() -> Iterator[int]:
    """A namespace with one device."""
    namespace = Namespace()
    with namespace.entered():
        ip("link add v0 type veth peer name v1")
        yield int(ip("-o link show v0").split(":")[0])
    namespace.close()


def killed_at(paths: TestPaths, ifindex: int, step: int, size: int) -> bool:
    """Bring up in another process; was it killed on the way?"""
    status = bring_up_and_die(paths.home, ifindex, step, size)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def bring_up(paths: TestPaths, ifindex: int, size: int) -> None:
    """What the next start does."""
    guard = Guard(paths, LISTEN_PORT, size, PYTHON)
    guard.ensure_loaded()
    guard.set_members(FLEET)
    guard.set_exceptions({(6, 22)})
    guard.attach([(ifindex, "v0", True)])
    assert guard.set_members(FLEET) == []
    assert guard.set_exceptions({(6, 22)}) == []
    assert guard.attach([(ifindex, "v0", True)]) == []
    guard.close()


def assert_whole(paths: TestPaths, ifindex: int, size: int) -> None:
    """Exactly one generation, complete, attached, with the programs that work on these maps."""
    names = sorted(entry.name for entry in paths.bpffs.iterdir() if not entry.name.startswith("clsact-"))
    maps = f"maps-{contract.contract_hash(size)}"
    assert names[0] == maps
    assert len(names) == 2, names
    assert names[1].startswith("prog-")
    specs = [spec.name for spec in contract.map_specs(size)]
    assert sorted(pin.name for pin in (paths.bpffs / maps).iterdir()) == sorted(specs)
    fds = {name: bpfsys.obj_get(paths.bpffs / names[1] / name) for name in PROGRAMS}
    config = bpfsys.obj_get(paths.bpffs / maps / "config")
    assert all(bpfsys.prog_map_ids(fd) == {bpfsys.map_id(config)} for fd in fds.values())
    with Tc() as link:
        for direction, program in ((INGRESS, "ingress_l2"), (EGRESS, "egress_l2")):
            wanted = f"{PREFIX}{program.replace('_', '-')}-{bpfsys.prog_id(fds[program])}"
            assert [entry.name for entry in link.filters(ifindex, direction)] == [wanted]
    for fd in (*fds.values(), config):
        os.close(fd)


def reset(paths: TestPaths) -> None:
    """Back to nothing."""
    guard = Guard(paths, LISTEN_PORT, 16, PYTHON)
    guard.teardown()


def test_first_start(paths: TestPaths, ifindex: int) -> None:
    step = 0
    while killed_at(paths, ifindex, step := step + 1, 64):
        bring_up(paths, ifindex, 64)
        assert_whole(paths, ifindex, 64)
        reset(paths)
        assert "clsact" not in tc("qdisc show dev v0"), step
        assert step < MOST_STEPS
    assert step > 20
    assert_whole(paths, ifindex, 64)


def test_upgrade_with_other_maps(paths: TestPaths, ifindex: int) -> None:
    """The device is guarded by whole programs at every moment: the old ones, then the new ones."""
    step = 0
    while True:
        bring_up(paths, ifindex, 64)
        if not killed_at(paths, ifindex, step := step + 1, 128):
            break
        with Tc() as link:
            for direction in (INGRESS, EGRESS):
                assert len([entry for entry in link.filters(ifindex, direction) if entry.ours]) == 1
        bring_up(paths, ifindex, 128)
        assert_whole(paths, ifindex, 128)
        reset(paths)
        assert step < MOST_STEPS
    assert step > 20
    assert_whole(paths, ifindex, 128)


def test_the_compiler_dies_with_the_agent(
    privileged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while bcc compiles: the child goes, too, and the next start begins anew."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from tests.bpf.harness import TestPaths\n"
        "from wardmesh.datapath.guard import Guard\n"
        f"Guard(TestPaths(home=Path(sys.argv[3])), {LISTEN_PORT}, 64, {PYTHON!r}).ensure_loaded()\n"
    )
    roots = [str(REPO / "agent"), str(REPO)]
    with bpf_filesystem(tmp_path) as paths:
        parent = subprocess.Popen([sys.executable, "-c", code, *roots, str(tmp_path)])
        child = wait_for_child(parent)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 60
        while running(child) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not running(child)
        guard = Guard(paths, LISTEN_PORT, 64, PYTHON)
        assert guard.ensure_loaded().compiled
        assert [name for name in os.listdir(paths.bpffs) if name.startswith(("new-", "old-"))] == []
        guard.close()


def wait_for_child(parent: subprocess.Popen[bytes]) -> int:
    """The process id of the compiling child, once it has loaded bcc."""
    listing = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while parent.poll() is None:
        for word in listing.read_text().split():
            try:
                if "libbcc" in Path(f"/proc/{word}/maps").read_text():
                    return int(word)
            except OSError:
                continue
        time.sleep(0.005)
    raise AssertionError("it was quicker than we looked")


def running(pid: int) -> bool:
    """Is there such a process, and is it no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
