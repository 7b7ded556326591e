# SPDX-License-Identifier: Apache-2.0
"""A table of flows (bpf/lib/fw_table.h), looked at where it lies: the kernel's memory, mapped for reading."""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple

from wardmesh.datapath import bpfsys
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import ROW

_EXPIRES_AT = struct.calcsize("=IHBBQQIIII")  # where in an entry, fw.FLOW, its end is
_PAST = 1 << 31  # set in a distance of 32 bits that is negative
_WORD = 8  # bytes; a set is a number of words
_BLOCK = 1024  # sets that are looked at together

_ONE = b"\1"


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
        """How many flows have time left (now: in ticks), a column of a thousand sets at a time.

        The entries alone tell: who never held a flow has 0 there, and holders of slots are seldom up to date.
        """
        live, first = 0, fw.HEAD.size + self._key + _EXPIRES_AT
        places = [first + way * self._slot for way in range(fw.WAYS)]
        with memoryview(self._memory).cast("Q") as words:
            for start in range(0, self._sets, _BLOCK):
                block = words[start * self._size // _WORD : (start + _BLOCK) * self._size // _WORD]
                column = self._column(block, places)
                ends = column[first % _WORD :]
                over = _past(ends, now)
                if now - 1 & _PAST:  # a distance of 2^31 or more from 0: it would lie ahead
                    over |= _zero(ends)
                live += len(column) // _WORD - over.to_bytes(len(column), "little").count(1)
        return live

    def _column(self, block: memoryview, places: Iterable[int]) -> bytes:
        """The words around these bytes of a set, of each set, one place after another."""
        step = self._size // _WORD
        return b"".join([block[place // _WORD :: step].tobytes() for place in places])

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


# Columns of 1 and 0, a byte for each set, are numbers here: what is done with one is done with all of them.


def _number(column: bytes) -> int:
    return int.from_bytes(column, "little")


def _past(words: bytes, now: int) -> int:
    """1 where the first four bytes of a word are a time in ticks before now, by the distance modulo 2^32."""
    low = (now % (1 << 32)).to_bytes(4, "little")
    less = 0  # of the bytes up to this one: are they less than those of now?
    for place in range(3):
        column, at = words[place::_WORD], low[place]
        first = column[0]
        if column.count(first) < len(column):
            same = bytes(at) + _ONE + bytes(255 - at)
            less = _where(column, _ONE * at + bytes(256 - at)) | _where(column, same) & less
        elif first != at:  # they are all alike: higher bytes, nearly always
            less = _number(_ONE * len(column)) if first < at else 0
    highest = words[3::_WORD]
    kept, borrowed = (_where(highest, _ahead(low[3] + borrow)) for borrow in (0, 1))
    return kept ^ less & (kept ^ borrowed)


def _zero(words: bytes) -> int:
    """1 where the first four bytes of a word are 0."""
    nothing, found = _ONE + bytes(255), -1
    for place in range(4):
        found &= _where(words[place::_WORD], nothing)
    return found


def _ahead(at: int) -> bytes:
    """A table of the bytes that lie 128 or more behind this one, modulo 256: they stand for the past."""
    far = bytes(128) + _ONE * 128
    at %= 256
    return far[256 - at :] + far[: 256 - at]


def _where(column: bytes, table: bytes) -> int:
    return _number(column.translate(table))
