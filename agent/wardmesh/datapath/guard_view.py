# SPDX-License-Identifier: Apache-2.0
"""What the guard's pinned maps hold, read from the kernel."""

from __future__ import annotations

from pathlib import Path

from wardmesh.datapath import bpfsys, contract
from wardmesh.datapath.pins import close_all, open_pins
from wardmesh.model.errors import WardmeshError

_FLAGS = {contract.MEMBER: "member", contract.STRICT: "strict", contract.SELF: "self"}
_NAMES = ("ipcache4", "ipcache6", "prefix4", "prefix6")


def _open(folder: Path, members_max: int) -> dict[str, int]:
    maps = open_pins(folder, [spec.name for spec in contract.map_specs(members_max)])
    if maps is None:
        raise WardmeshError(
            "the guard is not in the kernel", where=str(folder), remedy="see wardmesh status and its problems"
        )
    return maps


def ipcache(folder: Path, members_max: int) -> dict[contract.Network, tuple[int, tuple[str, ...]]]:
    """Identity and flags by network."""
    maps = _open(folder, members_max)
    specs = {spec.name: spec for spec in contract.map_specs(members_max)}
    try:
        found = {}
        for name in _NAMES:
            spec = specs[name]
            for key, value in bpfsys.map_items(maps[name], spec.key_size, spec.value_size).items():
                identity, flags = contract.IPCACHE_VALUE.unpack(value)
                words = tuple(word for bit, word in _FLAGS.items() if flags & bit)
                found[contract.ipcache_network(name, key)] = (int(identity), words)
        return found
    finally:
        close_all(maps)


def map_sizes(folder: Path, members_max: int) -> list[tuple[str, int, int]]:
    """Name, entries that are there, entries that fit; arrays are always full."""
    maps = _open(folder, members_max)
    try:
        return [
            (
                spec.name,
                spec.max_entries
                if spec.kind in contract.ARRAYS
                else len(bpfsys.map_items(maps[spec.name], spec.key_size, spec.value_size)),
                spec.max_entries,
            )
            for spec in contract.map_specs(members_max)
        ]
    finally:
        close_all(maps)
