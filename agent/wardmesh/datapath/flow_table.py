# SPDX-License-Identifier: Apache-2.0
"""A table of flows (bpf/lib/fw_table.h), looked at where it lies: the kernel's memory, mapped for reading."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from wardmesh.datapath import bpfsys
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import ROW

_EXPIRES_AT = struct.calcsize("=IHBBQQIIII")  # where in an entry, fw.FLOW, its end is
_PAST = 1 << 31  # set in a distance of 32 bits that is negative
_WORD = 8  # bytes; a slot is a number of words
_BLOCK = 8192  # slots that are looked at together

_ONE = b"\1"


class Slot(NamedTuple):
    """A flow's key and entry as they lie there."""

    key: bytes
    flow: bytes


def flow_at(fd: int, family: int, place: int, key: bytes) -> bytes | None:
    """The entry in the slot of this number, if it is this key's; family: 4 or 6.

    Asked of the kernel: a table that is mapped counts as memory of who maps it.
    """
    held = bpfsys.map_lookup(fd, ROW.pack(place), fw.SLOT4_BYTES if family == 4 else fw.SLOT6_BYTES) or b""
    return held[len(key) : len(key) + fw.FLOW.size] if held[: len(key)] == key else None


def slots_taken(fd: int, family: int) -> int:
    """How many slots of a table were ever used, from the map that counts them; family: 4 or 6."""
    held = bpfsys.map_lookup(fd, ROW.pack(family == 6), fw.TAKEN.size) or bytes(fw.TAKEN.size)
    (taken,) = fw.TAKEN.unpack(held)
    return int(taken)


class FlowTable:
    """The table behind a descriptor; family: 4 or 6. The descriptor may be closed meanwhile.

    taken: how many slots were ever used (slots_taken); what comes later is not looked at.
    """

    def __init__(self, fd: int, family: int, taken: int) -> None:
        self._key, self._slot = (
            (fw.FLOW4_KEY.size, fw.SLOT4_BYTES) if family == 4 else (fw.FLOW6_KEY.size, fw.SLOT6_BYTES)
        )
        self._bytes = taken * self._slot
        # Nothing cannot be mapped.
        self._memory = mmap.mmap(fd, max(self._bytes, 1), mmap.MAP_SHARED, mmap.PROT_READ)

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
        """Every flow that has a slot; its time may be over.

        One that makes way for another while it is read is left out: its key is not what it was.
        """
        memory, size = self._memory, self._key
        for start in range(0, self._bytes, self._slot):
            key = memory[start : start + size]
            flow = memory[start + size : start + size + fw.FLOW.size]
            # The last word is 0 while the slot is written, and holds the protocol's number otherwise.
            if any(key[-_WORD:]) and memory[start : start + size] == key:
                yield Slot(key, flow)

    def live(self, now: int) -> int:
        """How many flows have time left (now: in ticks), a column of thousands of slots at a time."""
        live, first, step = 0, self._key + _EXPIRES_AT, self._slot // _WORD
        with memoryview(self._memory).cast("B")[: self._bytes] as held, held.cast("Q") as words:
            for start in range(0, len(words), _BLOCK * step):
                column = words[start + first // _WORD : start + _BLOCK * step : step].tobytes()
                ends = column[first % _WORD :]
                over = _past(ends, now)
                if now - 1 & _PAST:  # a distance of 2^31 or more from 0: it would lie ahead
                    over |= _zero(ends)
                live += len(column) // _WORD - over.to_bytes(len(column), "little").count(1)
        return live


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
