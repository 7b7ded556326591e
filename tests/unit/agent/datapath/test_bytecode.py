# SPDX-License-Identifier: Apache-2.0
"""Compiled programs on the disk: what goes in comes out, and whatever is not whole or not ours does not."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.datapath import bytecode
from wardmesh.datapath.bytecode import Code


def load64(source: int, value: int) -> bytes:
    return struct.pack("<BBhiBBhi", 0x18, source << 4 | 1, 0, value, 0, 0, 0, 7)


def move(value: int) -> bytes:
    return struct.pack("<BBhi", 0xB7, 0, 0, value)


def call(source: int, value: int) -> bytes:
    return struct.pack("<BBhi", 0x85, source << 4, 0, value)


NAMES = {3: "config", 4: "ipcache"}


def test_descriptors_go_and_come_back_as_others() -> None:
    made = load64(1, 3) + move(3) + load64(1, 4) + load64(0, 3) + call(0, 1)
    code = bytecode.unbound(made, NAMES)
    assert code is not None
    assert code.maps == {0: "config", 3: "ipcache"}
    assert code.instructions == load64(1, 0) + move(3) + load64(1, 0) + load64(0, 3) + call(0, 1)
    assert bytecode.bound(code, {"config": 3, "ipcache": 4, "more": 9}) == made
    assert bytecode.bound(code, {"config": 30, "ipcache": 31})[4:8] == struct.pack("<i", 30)
    with pytest.raises(KeyError):
        bytecode.bound(code, {"config": 3})


@pytest.mark.parametrize(
    "instructions",
    [
        load64(1, 5),  # a map that is none of ours
        load64(2, 3),  # BPF_PSEUDO_MAP_VALUE
        load64(3, 3),  # BPF_PSEUDO_BTF_ID
        call(1, 8),  # BPF_PSEUDO_CALL: a second function
        call(2, 8),  # BPF_PSEUDO_KFUNC_CALL
        move(1)[:5],
    ],
)
def test_what_means_something_else_elsewhere_is_not_kept(instructions: bytes) -> None:
    assert bytecode.unbound(instructions, NAMES) is None


PROGRAMS = st.dictionaries(
    st.text("abc_", min_size=1, max_size=8),
    st.builds(
        Code,
        st.binary(max_size=64),
        st.dictionaries(st.integers(0, 4000), st.sampled_from(["config", "ipcache"]), max_size=4),
    ),
    max_size=4,
)


@given(PROGRAMS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, programs: dict[str, Code]) -> None:
    path = tmp_path_factory.mktemp("x") / "programs/guard-1.json"
    bytecode.write(path, programs)
    assert bytecode.read(path) == programs
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "programs/guard-1.json"
    bytecode.write(path, {"one": Code(move(1), {}), "two": Code(load64(1, 0), {0: "config"})})
    return path


def test_no_changed_or_cut_file_is_used(kept: Path) -> None:
    whole = kept.read_bytes()
    for length in range(len(whole) - 1):  # the last byte is a line's end
        kept.write_bytes(whole[:length])
        assert bytecode.read(kept) is None
    changed = json.loads(whole)
    changed["programs"]["two"]["maps"] = {"0": "ipcache"}
    kept.write_text(json.dumps(changed))
    assert bytecode.read(kept) is None
    kept.write_bytes(whole)
    assert bytecode.read(kept) is not None


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"format": 2}', '{"format": 1, "programs": 3, "digest": ""}', "\xff"]
)
def test_something_else_in_its_place_is_not_used(kept: Path, text: str) -> None:
    kept.write_bytes(text.encode("latin-1"))
    assert bytecode.read(kept) is None


def test_what_others_could_have_written_is_not_used(kept: Path) -> None:
    kept.chmod(0o622)
    assert bytecode.read(kept) is None
    kept.chmod(0o600)
    kept.parent.chmod(0o777)
    assert bytecode.read(kept) is None
    kept.parent.chmod(0o700)
    other = kept.with_name("real")
    kept.rename(other)
    kept.symlink_to(other)
    assert bytecode.read(kept) is None
    assert bytecode.read(kept.with_name("none")) is None


def test_only_the_last_few_of_a_source_stay(kept: Path) -> None:
    bytecode.write(kept.with_name("firewall-1.json"), {})
    for number in range(2, 9):
        path = kept.with_name(f"guard-{number}.json")
        bytecode.write(path, {})
        os.utime(path, (number, number))
    os.utime(kept, (1, 1))
    bytecode.write(kept.with_name("guard-9.json"), {})
    found = sorted(path.name for path in kept.parent.iterdir())
    assert found == ["firewall-1.json", "guard-6.json", "guard-7.json", "guard-8.json", "guard-9.json"]
