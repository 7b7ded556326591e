# SPDX-License-Identifier: Apache-2.0
"""Loading: once compiled, then re-used; what is missing or old is repaired; errors say what to do."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.bpf import stub
from tests.bpf.harness import (
    DROP,
    FLEET,
    LISTEN_PORT,
    PYTHON,
    SELF4,
    STRICT4,
    Bench,
    TestPaths,
    bpf_filesystem,
)
from tests.bpf.netns import Namespace, ip
from tests.bpf.packets import ethernet, ipv4, tcp

from wardmesh.datapath import bpfsys, bytecode, contract, loader, sources
from wardmesh.datapath.attachment import Device
from wardmesh.datapath.contract import EGRESS, INGRESS, MEMBER, STRICT
from wardmesh.datapath.guard import Guard
from wardmesh.datapath.tc import Tc
from wardmesh.model.errors import WardmeshError

pytestmark = pytest.mark.netns

PLAIN = ethernet(ipv4(SELF4, STRICT4, tcp()))


@pytest.fixture
def paths(privileged: None, tmp_path: Path) -> Iterator[TestPaths]:
    """A fresh bpf file system."""
    with bpf_filesystem(tmp_path) as found:
        yield found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small programs instead of the compiler."""
    monkeypatch.setattr(loader, "compile_and_pin", stub.compile_and_pin)


@pytest.fixture
def device() -> Iterator[Device]:
    """A namespace with one device."""
    namespace = Namespace()
    with namespace.entered():
        ip("link add v0 type veth peer name v1")
        yield int(ip("-o link show v0").split(":")[0]), "v0", True
    namespace.close()


def new_guard(paths: TestPaths, members_max: int = 256, python: str = PYTHON) -> Guard:
    return Guard(paths, LISTEN_PORT, members_max, python)


def attached_names(device: Device) -> list[str]:
    with Tc() as tc:
        return [entry.name for direction in (INGRESS, EGRESS) for entry in tc.filters(device[0], direction)]


def folders(paths: TestPaths) -> list[str]:
    return sorted(entry.name for entry in paths.bpffs.iterdir())


def test_compiled_once_and_contents_survive(paths: TestPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_guard(paths)
    assert first.ensure_loaded().compiled
    assert not first.ensure_loaded().compiled
    assert len(first.set_members(FLEET)) == len(FLEET)
    bench = Bench(first, paths)
    assert bench.run(EGRESS, PLAIN).verdict == DROP
    first.close()

    def no_compiler(*_arguments: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(loader, "compile_and_pin", no_compiler)
    second = new_guard(paths)
    report = second.ensure_loaded()
    assert not report.compiled
    assert second.set_members(FLEET) == []
    assert second.counters()["Traffic is unencrypted"].packets == 1
    assert second.counters()["Traffic is unencrypted"].bytes == len(PLAIN)
    bench.close()
    second.close()


def reboot(paths: TestPaths) -> None:
    """What a reboot leaves of the pins."""
    for folder in paths.bpffs.iterdir():
        shutil.rmtree(folder)


def verdicts(guard: Guard, paths: TestPaths) -> list[int]:
    guard.set_members(FLEET)
    bench = Bench(guard, paths)
    found = [bench.run(direction, PLAIN).verdict for direction in (EGRESS, INGRESS)]
    bench.close()
    guard.close()
    return found


def test_after_a_reboot_nothing_is_compiled(paths: TestPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, runs = loader.compile_and_pin, []

    def counted(*arguments: Any) -> str:
        runs.append(arguments)
        return compiler(*arguments)

    monkeypatch.setattr(loader, "compile_and_pin", counted)
    guard = new_guard(paths)
    assert guard.ensure_loaded().compiled
    before = verdicts(guard, paths)
    reboot(paths)
    guard = new_guard(paths)
    assert not guard.ensure_loaded().compiled
    assert (verdicts(guard, paths), len(runs)) == (before, 1)
    assert DROP in before

    # What the kernel refuses is compiled again, and kept anew.
    (kept,) = paths.programs.iterdir()
    codes = bytecode.read(kept)
    assert codes is not None
    bytecode.write(
        kept, {name: replace(code, instructions=b"\x95" + bytes(7)) for name, code in codes.items()}
    )
    reboot(paths)
    guard = new_guard(paths)
    assert guard.ensure_loaded().compiled
    assert (verdicts(guard, paths), len(runs)) == (before, 2)
    assert bytecode.read(kept) == codes


def test_nothing_is_attached_before_the_members_are_known(
    quick: None, paths: TestPaths, device: Device
) -> None:
    guard = new_guard(paths)
    with pytest.raises(WardmeshError, match="not loaded"):
        guard.set_members(FLEET)
    guard.ensure_loaded()
    with pytest.raises(WardmeshError, match="knows no members yet"):
        guard.attach([device])
    assert attached_names(device) == []
    guard.close()


def test_another_size_is_another_generation_and_the_old_one_goes_last(
    quick: None, paths: TestPaths, device: Device
) -> None:
    old = new_guard(paths, 256)
    old.ensure_loaded()
    old.set_members(FLEET)
    old.attach([device])
    before, names = folders(paths), attached_names(device)
    old.close()

    new = new_guard(paths, 512)
    assert new.ensure_loaded().compiled
    assert attached_names(device) == names  # the old one goes on meanwhile
    with pytest.raises(WardmeshError, match="knows no members yet"):
        new.attach([device])
    assert set(before) < set(folders(paths))
    assert len(new.set_members(FLEET)) == len(FLEET)
    lines = new.attach([])  # the device is not asked for, and gets the new programs all the same
    assert [line for line in lines if "swapped" in line] == [
        f"guard: interface {device[0]}: ingress swapped",
        f"guard: interface {device[0]}: egress swapped",
    ]
    assert len(attached_names(device)) == 2
    assert not set(attached_names(device)) & set(names)
    left = [name for name in folders(paths) if name.startswith(("maps-", "prog-"))]
    assert len(left) == 2
    assert not set(left) & set(before)
    new.close()


@pytest.mark.parametrize("broken", ["maps-*/ipcache6", "prog-*/ingress_l3", "maps-*", "prog-*", "*"])
def test_pins_that_somebody_removes_are_made_again(
    quick: None, paths: TestPaths, device: Device, broken: str
) -> None:
    guard = new_guard(paths)
    guard.ensure_loaded()
    guard.set_members(FLEET)
    guard.attach([device])
    for pin in paths.bpffs.glob(broken):
        shutil.rmtree(pin) if pin.is_dir() else pin.unlink()
    assert guard.ensure_loaded().compiled
    guard.set_members(FLEET)
    assert "guard: v0: egress swapped" in guard.attach([device])
    assert guard.attach([device]) == []
    assert guard.set_members(FLEET) == []
    attached = {int(name.rsplit("-", 1)[1]) for name in attached_names(device)}
    config = bpfsys.obj_get(next(paths.bpffs.glob("maps-*")) / "config")
    programs = [bpfsys.obj_get(pin) for pin in paths.bpffs.glob("prog-*/*_l2")]
    assert {bpfsys.prog_id(fd) for fd in programs} == attached
    assert {frozenset({bpfsys.map_id(config)})} == {bpfsys.prog_map_ids(fd) for fd in programs}
    guard.close()


def test_teardown_removes_every_trace(quick: None, paths: TestPaths, device: Device) -> None:
    guard = new_guard(paths)
    guard.ensure_loaded()
    guard.set_members(FLEET)
    guard.attach([device])
    assert guard.teardown()
    assert not paths.bpffs.exists()
    assert not (paths.state / "headers").exists()
    with Tc() as tc:
        assert tc.ingress_qdiscs() == {}
    assert guard.teardown() == []


def test_a_fleet_too_large_for_the_maps(quick: None, paths: TestPaths) -> None:
    guard = new_guard(paths, 4)
    guard.ensure_loaded()
    four = {ipaddress.ip_network(f"10.0.0.{n}"): (n, MEMBER) for n in range(4)}
    guard.set_members(four)
    five = {ipaddress.ip_network(f"10.0.1.{n}"): (n, MEMBER) for n in range(5)}
    with pytest.raises(WardmeshError, match=r"bpf\.membersMax.*5 IPv4 addresses.*holds 4.*5 or more"):
        guard.set_members(five)
    assert guard.set_members(four) == []  # nothing was touched
    other = {ipaddress.ip_network(f"10.0.2.{n}"): (n, MEMBER | STRICT) for n in range(4)}
    assert len(guard.set_members(other)) == 8  # a whole exchange fits: added first, then removed
    guard.close()


def test_a_full_map_names_the_key(quick: None, paths: TestPaths) -> None:
    guard = new_guard(paths, 4)
    guard.ensure_loaded()
    fd = bpfsys.obj_get(next(paths.bpffs.glob("maps-*")) / "ipcache4")
    for number in range(8):
        bpfsys.map_update(fd, bytes([9, 9, 9, number]), bytes(8))
    with pytest.raises(WardmeshError, match=r"bpf\.membersMax: the guard's map ipcache4 is full"):
        guard.set_members({ipaddress.ip_network("10.0.0.1"): (1, MEMBER)})
    guard.close()


def test_many_members_and_a_delta(quick: None, paths: TestPaths) -> None:
    guard = new_guard(paths, 20000)
    guard.ensure_loaded()
    fleet = {ipaddress.ip_network(0x0A000000 + n): (n, MEMBER) for n in range(10000)}
    fleet |= {ipaddress.ip_network((0x0B000000 + 256 * n, 24)): (n, MEMBER) for n in range(5000)}
    lines = guard.set_members(fleet)
    assert lines[-1] == f"guard: {15000 - 40} more addresses changed"
    assert guard.set_members(fleet) == []
    first = ipaddress.ip_network("10.0.0.0")
    changed = {**fleet, first: (0, MEMBER | STRICT)}
    assert guard.set_members(changed) == [
        "guard: 10.0.0.0/32 changed from member, identity 0 to member+strict, identity 0"
    ]
    del changed[first]
    assert guard.set_members(changed) == ["guard: 10.0.0.0/32 removed"]
    guard.close()


def test_too_many_exceptions(quick: None, paths: TestPaths) -> None:
    guard = new_guard(paths)
    guard.ensure_loaded()
    with pytest.raises(WardmeshError, match=r"encryption\.exceptions"):
        guard.set_exceptions((6, port) for port in range(contract.MAX_EXCEPTIONS + 1))
    guard.close()


def test_reading_maps_without_batches_is_the_same(quick: None, paths: TestPaths) -> None:
    guard = new_guard(paths)
    guard.ensure_loaded()
    guard.set_members(FLEET)
    for name, size in (("ipcache4", 4), ("prefix6", 20)):
        fd = bpfsys.obj_get(next(paths.bpffs.glob("maps-*")) / name)
        assert bpfsys.map_items(fd, size, 8) == bpfsys._items_by_key(fd, size, 8)
        assert bpfsys.map_items(fd, size, 8)
    guard.close()


def test_bcc_is_missing(paths: TestPaths, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {PYTHON} -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    with pytest.raises(WardmeshError, match=r"bcc is missing.*python3-bpfcc.*python3-bcc"):
        new_guard(paths, python=str(bare)).ensure_loaded()


def test_bcc_cannot_be_imported(paths: TestPaths, tmp_path: Path) -> None:
    """The package is there, its library is not."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").write_text(
        "raise OSError('libbcc.so.0: cannot open shared object file')\n"
    )
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path} exec {PYTHON} "$@"\n')
    broken.chmod(0o755)
    with pytest.raises(WardmeshError, match=r"libbcc\.so\.0: cannot open.*python3-bpfcc"):
        new_guard(paths, python=str(broken)).ensure_loaded()


def test_an_error_of_the_compiler_is_told_with_file_and_line(
    paths: TestPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    flatten = sources.flatten
    monkeypatch.setattr(
        loader, "flatten", lambda *names: flatten(*names).replace("packet->arp = true;", "packet->arp = tru;")
    )
    with pytest.raises(
        WardmeshError, match=r"bpf/lib/parse\.h:\d+.*error: use of undeclared identifier 'tru'"
    ):
        new_guard(paths).ensure_loaded()
    assert [name for name in folders(paths) if name.startswith("prog-")] == []


def test_a_refusal_of_the_verifier_is_told(paths: TestPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    flatten = sources.flatten
    wrong = "skb->tstamp_type = 1; skb->sk = 0; mark = (mark"
    monkeypatch.setattr(loader, "flatten", lambda *names: flatten(*names).replace("mark = (mark", wrong))
    with pytest.raises(WardmeshError, match=r"cannot be compiled or loaded.*invalid bpf_context access"):
        new_guard(paths).ensure_loaded()


def test_the_digest_knows_what_decides(tmp_path: Path) -> None:
    build = loader.plan_build(PYTHON, tmp_path, "abc")
    assert build.bcc.startswith("0.")
    changes = (
        loader.Build(build.source + " ", build.cflags, build.release, build.bcc, build.contract),
        loader.Build(build.source, (*build.cflags, "-DX"), build.release, build.bcc, build.contract),
        loader.Build(build.source, build.cflags, "6.1.0", build.bcc, build.contract),
        loader.Build(build.source, build.cflags, build.release, "0.31.0", build.contract),
        loader.Build(build.source, build.cflags, build.release, build.bcc, "abd"),
    )
    assert len({build.digest, *(change.digest for change in changes)}) == 6


def test_the_bpf_file_system_is_mounted_where_nobody_has(
    privileged: None, quick: None, tmp_path: Path
) -> None:
    paths = TestPaths(home=tmp_path)
    guard = new_guard(paths)
    try:
        guard.ensure_loaded()
        assert bpfsys.is_bpffs(tmp_path / "bpf")
    finally:
        guard.close()
        subprocess.run(["umount", str(tmp_path / "bpf")], check=True)
