# SPDX-License-Identifier: Apache-2.0
"""The ipcache: desired entries against what the maps hold, applied as a delta."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from wardmesh.datapath import bpfsys
from wardmesh.datapath.contract import (
    IPCACHE_VALUE,
    MEMBER,
    PREFIX_LEN,
    SELF,
    STRICT,
    Network,
    ipcache_network,
    ipcache_slot,
)
from wardmesh.model.errors import WardmeshError

KEY_SIZES = {"ipcache4": 4, "ipcache6": 16, "prefix4": PREFIX_LEN.size + 4, "prefix6": PREFIX_LEN.size + 16}
_FLAG_NAMES = ((MEMBER, "member"), (STRICT, "strict"), (SELF, "self"))
_MOST_LINES = 40

Entries = Mapping[Network, "tuple[int, int]"]


def desired_slots(entries: Entries, members_max: int) -> dict[str, dict[bytes, bytes]]:
    """Keys and values by map; WardmeshError when a map would have to hold more than bpf.membersMax."""
    slots: dict[str, dict[bytes, bytes]] = {name: {} for name in KEY_SIZES}
    for network, (identity, flags) in entries.items():
        name, key = ipcache_slot(network)
        slots[name][key] = IPCACHE_VALUE.pack(identity, flags)
    for name, slot in slots.items():
        if len(slot) > members_max:
            raise WardmeshError(
                f"the fleet has {len(slot)} {_describe(name)}, the guard's map holds {members_max}",
                where="bpf.membersMax",
                remedy=f"set bpf.membersMax to {len(slot)} or more",
            )
    return slots


def _describe(name: str) -> str:
    kind = "addresses" if name.startswith("ipcache") else "subnets"
    return f"IPv{name[-1]} {kind}"


def read_slots(maps: Mapping[str, int]) -> dict[str, dict[bytes, bytes]]:
    """What the kernel has now."""
    return {name: bpfsys.map_items(maps[name], size, IPCACHE_VALUE.size) for name, size in KEY_SIZES.items()}


def write_slots(
    maps: Mapping[str, int],
    current: Mapping[str, Mapping[bytes, bytes]],
    desired: Mapping[str, Mapping[bytes, bytes]],
) -> list[str]:
    """Bring the maps to the desired entries; adds and changes in all of them before the first deletion."""
    lines: list[str] = []
    for name, slot in desired.items():
        fresh = {key: value for key, value in slot.items() if current[name].get(key) != value}
        _update(maps[name], name, fresh)
        lines += [_line(name, key, current[name].get(key), value) for key, value in fresh.items()]
    for name, slot in current.items():
        gone = [key for key in slot if key not in desired[name]]
        bpfsys.map_delete_many(maps[name], gone)
        lines += [f"guard: {ipcache_network(name, key)} removed" for key in gone]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"guard: {len(lines) - _MOST_LINES} more addresses changed"]
    return lines


def _update(fd: int, name: str, entries: Mapping[bytes, bytes]) -> None:
    try:
        bpfsys.map_update_many(fd, entries)
    except OSError as error:
        if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
            raise
        raise WardmeshError(
            f"the guard's map {name} is full",
            where="bpf.membersMax",
            why=error.strerror or str(error),
            remedy="raise bpf.membersMax",
        ) from error


def _line(name: str, key: bytes, old: bytes | None, new: bytes) -> str:
    network = ipcache_network(name, key)
    if old is None:
        return f"guard: {network} added ({flag_names(new)})"
    return f"guard: {network} changed from {flag_names(old)} to {flag_names(new)}"


def flag_names(value: bytes) -> str:
    """Flags and identity of a value, for people."""
    identity, flags = IPCACHE_VALUE.unpack(value)
    names = [name for flag, name in _FLAG_NAMES if flags & flag] or ["known"]
    return f"{'+'.join(names)}, identity {identity}"
