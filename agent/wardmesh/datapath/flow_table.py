# SPDX-License-Identifier: Apache-2.0
"""A table of flows (bpf/lib/fw_table.h), looked at where it lies: the kernel's memory, mapped for reading."""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from wardmesh.datapath import bpfsys
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import ROW

_EXPIRES, _EXPIRES_AT = struct.Struct("=I"), struct.calcsize("=IHBBQQIIII")  # in an entry, fw.FLOW
_PAST = 1 << 31  # set in a distance of 32 bits that is negative


class Slot(NamedTuple):
    """A flow's key and entry as they lie there, and whether it was ever answered."""

    key: bytes
    flow: bytes
    answered: bool


def flow_at(fd: int, family: int, place: int, key: bytes) -> bytes | None:
    """The entry in the slot of this number, if it is this key's; family: 4 or 6.

    Asked of the kernel: a table that is mapped counts as memory of who maps it.
    """
    size, slot = (fw.SET4_BYTES, fw.SLOT4_BYTES) if family == 4 else (fw.SET6_BYTES, fw.SLOT6_BYTES)
    held = bpfsys.map_lookup(fd, ROW.pack(place // fw.WAYS), size) or b""
    start = fw.HEAD.size + place % fw.WAYS * slot
    flow = held[start + len(key) : start + len(key) + fw.FLOW.size]
    return flow if held[start : start + len(key)] == key else None


class FlowTable:
    """The table behind a descriptor; family: 4 or 6. The descriptor may be closed meanwhile."""

    def __init__(self, fd: int, family: int, sets: int) -> None:
        key, slot, size = (
            (fw.FLOW4_KEY.size, fw.SLOT4_BYTES, fw.SET4_BYTES)
            if family == 4
            else (fw.FLOW6_KEY.size, fw.SLOT6_BYTES, fw.SET6_BYTES)
        )
        self.room = sets * fw.WAYS
        self._key, self._slot, self._size, self._sets = key, slot, size, sets
        self._memory = mmap.mmap(fd, sets * size, mmap.MAP_SHARED, mmap.PROT_READ)

    def __enter__(self) -> FlowTable:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()

    def slots(self) -> Iterator[Slot]:
        """Every flow that holds a slot; its time may be over.

        A slot that changes hands while it is read is left out: its holder or its key is not what it was.
        """
        memory, flow_size = self._memory, fw.FLOW.size
        for start, way, hold in self._holds():
            place, holder = start + fw.HEAD.size + way * self._slot, start + 8 * way
            key = memory[place : place + self._key]
            flow = memory[place + self._key : place + self._key + flow_size]
            held_still = memory[holder : holder + 8] == hold.to_bytes(8, sys.byteorder)
            if held_still and memory[place : place + self._key] == key:
                yield Slot(key, flow, bool(hold & fw.TAG_ANSWERED))

    def live(self, now: int) -> int:
        """How many flows have time left (now: in ticks); only those that seem to have none are read."""
        count = 0
        for start, way, hold in self._holds():
            until = hold >> 32
            if (until - now) & _PAST:  # the entry may know of a later end than who holds the slot
                place = start + fw.HEAD.size + way * self._slot + self._key
                until = _EXPIRES.unpack_from(self._memory, place + _EXPIRES_AT)[0]
            count += not (until - now) & _PAST
        return count

    def _holds(self) -> Iterator[tuple[int, int, int]]:
        """Where a set starts, a slot of it that is taken, and by whom."""
        empty, head = bytes(fw.HEAD.size), fw.HEAD
        for start in range(0, self._sets * self._size, self._size):
            raw = self._memory[start : start + head.size]
            if raw == empty:
                continue
            for way, hold in enumerate(head.unpack(raw)):
                if hold & 0xFFFFFFFE:  # neither empty nor busy
                    yield start, way, hold
