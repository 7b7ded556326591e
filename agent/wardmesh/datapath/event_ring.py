# SPDX-License-Identifier: Apache-2.0
"""The ring of events (bpf/lib/fw_events.h), read where it lies. There is one reader; nobody wakes it.

The layout is the kernel's (linux/bpf.h, kernel/bpf/ringbuf.c): a page with the reader's position, one with
the writers', then the data twice in a row, so that what lies one behind the other is never cut. Every record
has the same length, so a stretch of them is judged by the column of its heads, and copied at once.
"""

from __future__ import annotations

import mmap
import struct
from array import array

from wardmesh.datapath import bpfsys
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath.contract import ROW
from wardmesh.datapath.pinned import PinnedMaps

_POSITION = struct.Struct("=Q")
HEAD = struct.Struct("=II")  # length with two flags, offset of the ring's first page
_BUSY, _DISCARDED = 1 << 31, 1 << 30
STRIDE = HEAD.size + (ev.EVENT.size + 7 & ~7)  # bytes from one event to the next
_WORD = 4  # bytes of a head's length, by which heads are compared


class EventRing:
    """The ring behind a descriptor of so many bytes; the descriptor may be closed meanwhile.

    strange: records that were no events of this contract, and were passed over.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._size = size
        self._reader = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(
            fd, mmap.PAGESIZE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE
        )
        self._words = memoryview(self._data).cast("I")
        self._whole = memoryview(array("I", [ev.EVENT.size]) * (size // STRIDE))
        self.strange = 0

    def close(self) -> None:
        """Unmap it; what was not read stays."""
        self._words.release()
        self._reader.close()
        self._data.close()

    def pending(self) -> int:
        """Bytes that wait to be read."""
        return int(_POSITION.unpack_from(self._data)[0] - _POSITION.unpack_from(self._reader)[0])

    def read(self, most: int) -> list[bytes]:
        """Up to so many events (event_contract.EVENT), oldest first; they leave the ring."""
        data = self.take(most)
        return [
            data[place + HEAD.size : place + HEAD.size + ev.EVENT.size]
            for place in range(0, len(data), STRIDE)
        ]

    def take(self, most: int) -> bytes:
        """Up to so many events as they lie there, each STRIDE bytes with its head, oldest first."""
        pieces: list[bytes] = []
        (position,) = _POSITION.unpack_from(self._reader)
        (end,) = _POSITION.unpack_from(self._data)
        while position < end and most > 0:
            start = mmap.PAGESIZE + (position & (self._size - 1))
            done = self._done(start, min(most, (end - position) // STRIDE))
            if done:  # the heads were read before the copy: what they say is done stays as it is
                pieces.append(self._data[start : start + done * STRIDE])
                position += done * STRIDE
                most -= done
                continue
            length, _page = HEAD.unpack_from(self._data, start)
            if length & _BUSY:
                break  # its writer is not done; nothing after it may be taken before it
            bare = length & ~_DISCARDED
            if bare == length == ev.EVENT.size:
                continue  # done since its head was looked at
            self.strange += not length & _DISCARDED
            position += HEAD.size + (bare + 7 & ~7)
        _POSITION.pack_into(self._reader, 0, position)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _done(self, start: int, count: int) -> int:
        """How many of so many records from there on are events that their writers have finished."""
        words = self._words[start // _WORD : (start + count * STRIDE) // _WORD : STRIDE // _WORD]
        if words == self._whole[:count]:
            return count
        return next(place for place, length in enumerate(words) if length != ev.EVENT.size)


def watch(fd: int, *, told: bool, sample: int = 1, drops: int = 1000) -> None:
    """Say what is to be told, through the map "watch": one in so many flows, so many drops of a reason."""
    bpfsys.map_update(fd, ROW.pack(0), ev.WATCH.pack(told, sample, drops, 0))


class Told:
    """What opened maps (the guard's or the firewall's) tell from now on; their owner closes the maps.

    size: bytes of their ring; sample: one in so many flows; drops: of one reason in a second
    and on one processor.
    """

    def __init__(self, maps: PinnedMaps, size: int, *, sample: int = 1, drops: int) -> None:
        self._maps = maps
        self._ring = EventRing(maps.maps["events"], size)
        self._before = self._counted()
        watch(maps.maps["watch"], told=True, sample=sample, drops=drops)

    def take(self, most: int) -> bytes:
        """Up to so many events as they lie in the ring, each STRIDE bytes with its head, oldest first."""
        return self._ring.take(most)

    def lost(self) -> int:
        """Events that found the ring full since these maps were opened, and records that were none."""
        return self._counted() - self._before + self._ring.strange

    def silence(self) -> None:
        """Nothing is told any more."""
        watch(self._maps.maps["watch"], told=False)

    def close(self) -> None:
        """Let go of the ring."""
        self._ring.close()

    def _counted(self) -> int:
        counters = self._maps.counters({ev.LOST: ev.REASONS[ev.LOST]})
        return sum(counter.packets for counter in counters.values())
