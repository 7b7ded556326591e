# SPDX-License-Identifier: Apache-2.0
"""Decisions of the datapath that need no kernel: priorities, capacity, texts of errors and changes."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.datapath import bpfsys, contract, loader, members
from wardmesh.datapath.contract import MEMBER, STRICT
from wardmesh.datapath.tc import HANDLE, Filter, free_prio
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

ALL, IP = 3, 0x0800


def another(prio: int, kind: str = "bpf", protocol: int = ALL, handle: int = 1) -> Filter:
    return Filter(prio, handle, kind, "other", protocol)


@pytest.mark.parametrize(
    ("words", "filters", "prio"),
    [
        ("nobody is there", [], 1),
        ("a bpf filter can stand beside ours", [another(1)], 1),
        ("another kind cannot", [another(1, "u32")], 2),
        ("nor a bpf filter for one protocol", [another(1, protocol=IP)], 2),
        ("nor one with our handle", [another(1, handle=HANDLE)], 2),
        ("a later one does not matter", [another(5, "u32")], 1),
        ("the first free one is taken", [another(1, "u32"), another(2, "flower"), another(4, "u32")], 3),
    ],
)
def test_priority(words: str, filters: list[Filter], prio: int) -> None:
    assert free_prio(filters) == prio, words


def test_our_filters_are_known_by_name_and_kind() -> None:
    assert Filter(1, HANDLE, "bpf", "wardmesh-egress-l2-7", ALL).ours
    assert not Filter(1, HANDLE, "u32", "wardmesh-egress-l2-7", ALL).ours
    assert not another(1).ours


def test_capacity_is_counted_by_map() -> None:
    fleet: dict[contract.Network, tuple[int, int]] = {}
    for number in range(3):
        fleet[ipaddress.ip_network(f"10.0.0.{number}")] = (number, MEMBER)
        fleet[ipaddress.ip_network(f"10.{number}.0.0/16")] = (number, MEMBER)
        fleet[ipaddress.ip_network(f"fd00::{number}")] = (number, MEMBER)
    assert {name: len(slot) for name, slot in members.desired_slots(fleet, 3).items()} == {
        "ipcache4": 3,
        "ipcache6": 3,
        "prefix4": 3,
        "prefix6": 0,
    }
    with pytest.raises(WardmeshError, match=r"bpf\.membersMax.*3 IPv4 addresses.*holds 2"):
        members.desired_slots(fleet, 2)


networks = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(
        lambda length: (
            ipaddress.ip_network((int(address), length), strict=False)
            if address.version == 4
            else ipaddress.ip_network((address.packed, length), strict=False)
        )
    )
)
fleets = st.dictionaries(networks, st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 7)), max_size=12)


class Recorder:
    """Stands for the kernel's maps: contents, and whether anything was ever missing that both sides have."""

    def __init__(self, slots: dict[str, dict[bytes, bytes]]) -> None:
        self.slots = {name: dict(slot) for name, slot in slots.items()}
        self.names = dict(enumerate(slots))
        self.log: list[str] = []

    def update(self, fd: int, entries: dict[bytes, bytes]) -> None:
        self.slots[self.names[fd]].update(entries)
        self.log += ["update"] * len(entries)

    def delete(self, fd: int, keys: list[bytes]) -> None:
        for key in keys:
            del self.slots[self.names[fd]][key]
        self.log += ["delete"] * len(keys)


@given(before=fleets, after=fleets)
def test_a_delta_leads_there_and_adds_before_it_deletes(
    before: dict[contract.Network, tuple[int, int]], after: dict[contract.Network, tuple[int, int]]
) -> None:
    current, desired = members.desired_slots(before, 99), members.desired_slots(after, 99)
    kernel = Recorder(current)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpfsys, "map_update_many", kernel.update)
        patch.setattr(bpfsys, "map_delete_many", kernel.delete)
        lines = members.write_slots({name: fd for fd, name in kernel.names.items()}, current, desired)
    assert kernel.slots == desired
    assert kernel.log == sorted(kernel.log, reverse=True)  # every update goes before every delete
    assert len(lines) == len(kernel.log)
    assert bool(lines) == (before != after)


def test_flags_for_people() -> None:
    assert members.flag_names(contract.IPCACHE_VALUE.pack(7, MEMBER | STRICT)) == "member+strict, identity 7"
    assert members.flag_names(contract.IPCACHE_VALUE.pack(7, 0)) == "known, identity 7"


def test_the_childs_output_on_one_line() -> None:
    noise = "\n".join(f"note {number}" for number in range(30))
    folded = loader._fold(f"bpf/guard.c:3:1: error: no\n{noise}\nlast word\n")
    assert folded.startswith("bpf/guard.c:3:1: error: no | note")
    assert folded.endswith("last word")
    assert "\n" not in folded
    assert loader._fold("") == "no message"


def test_a_python_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(WardmeshError, match="/nonexistent/python"):
        loader.plan_build("/nonexistent/python", tmp_path, "c")


def test_a_child_that_fails_folds_its_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncat >/dev/null\necho 'guard.c:1: error: broken' >&2\nexit 4\n")
    python.chmod(0o755)
    build = loader.Build("", (), "6.1", "0.26.0", "c")
    monkeypatch.setattr(
        loader, "find_headers", lambda paths: type("Found", (), {"tree": tmp_path, "origin": "there"})()
    )
    with pytest.raises(
        WardmeshError, match=r"bcc 0\.26\.0, headers there.*exit status 4: guard\.c:1: error: broken"
    ):
        loader.compile_and_pin(build, {}, str(python), Paths(tmp_path))
