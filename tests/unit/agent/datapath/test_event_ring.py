# SPDX-License-Identifier: Apache-2.0
"""The ring of events as the kernel lays it out, written by a test: what is taken, what is waited for."""

from __future__ import annotations

import mmap
import struct
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardmesh.datapath import event_contract as ev
from wardmesh.datapath.event_ring import HEAD, STRIDE, EventRing

SIZE = 4 * mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


class Kernel:
    """The other side of a ring in a file. Its data lie there twice, as the kernel maps them."""

    def __init__(self, position: int = 0) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the ring
        self._file.truncate(2 * mmap.PAGESIZE + 2 * SIZE)
        self.memory = mmap.mmap(self._file.fileno(), 0)
        self.end = position
        for page in (0, mmap.PAGESIZE):
            struct.pack_into("=Q", self.memory, page, position)
        self.ring = EventRing(self._file.fileno(), SIZE)

    def put(self, body: bytes, flags: int = 0) -> int:
        """A record; where it is."""
        at, length = self.end, HEAD.size + (len(body) + 7 & ~7)
        data = (HEAD.pack(len(body) | flags, 0) + body).ljust(length, b"\0")
        for offset, byte in enumerate(data):
            for copy in (0, SIZE):
                self.memory[2 * mmap.PAGESIZE + (at + offset) % SIZE + copy] = byte
        self.end += length
        struct.pack_into("=Q", self.memory, mmap.PAGESIZE, self.end)
        return at

    def head(self, at: int, length: int) -> None:
        """Say anew how a record is."""
        for copy in (0, SIZE):
            struct.pack_into("=I", self.memory, 2 * mmap.PAGESIZE + at % SIZE + copy, length)

    @property
    def read_to(self) -> int:
        """The position that the reader has told."""
        return int(struct.unpack_from("=Q", self.memory)[0])

    def close(self) -> None:
        """Let go of everything."""
        self.ring.close()
        self.memory.close()
        self._file.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def event(number: int) -> bytes:
    """An event that can be told from others."""
    return struct.pack("=Q", number).ljust(ev.EVENT.size, b"\1")


def test_events_leave_the_ring_in_their_order(kernel: Kernel) -> None:
    for number in range(5):
        kernel.put(event(number))
    assert kernel.ring.pending() == 5 * STRIDE
    assert kernel.ring.read(3) == [event(0), event(1), event(2)]
    assert kernel.ring.read(3) == [event(3), event(4)]
    assert kernel.ring.read(3) == [] and kernel.ring.pending() == 0
    assert kernel.read_to == kernel.end


def test_nothing_is_taken_past_an_event_that_is_being_written(kernel: Kernel) -> None:
    kernel.put(event(0))
    at = kernel.put(event(1), BUSY)
    kernel.put(event(2))
    assert kernel.ring.read(9) == [event(0)]
    assert kernel.ring.read(9) == [] and kernel.read_to == at
    kernel.head(at, ev.EVENT.size)
    assert kernel.ring.read(9) == [event(1), event(2)]


def test_what_was_discarded_is_passed_over(kernel: Kernel) -> None:
    kernel.put(event(0), DISCARDED)
    kernel.put(event(1))
    at = kernel.put(event(2), BUSY | DISCARDED)
    kernel.put(event(3))
    assert kernel.ring.read(9) == [event(1)] and kernel.read_to == at
    kernel.head(at, ev.EVENT.size | DISCARDED)
    assert kernel.ring.read(9) == [event(3)]
    assert kernel.ring.strange == 0


def test_records_of_another_length_are_no_events_and_are_counted(kernel: Kernel) -> None:
    kernel.put(event(0))
    kernel.put(b"\2" * (ev.EVENT.size - 8))
    kernel.put(b"")
    kernel.put(event(1))
    assert kernel.ring.read(9) == [event(0), event(1)]
    assert kernel.ring.strange == 2


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 40).map(lambda place: place * 8),
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), min_size=1, max_size=6),
)
def test_a_ring_that_turns_loses_and_repeats_nothing(position: int, steps: list[tuple[int, int]]) -> None:
    """A step puts so many events, and takes at most so many."""
    kernel, put, got = Kernel(position), 0, []
    for fresh, most in steps:
        for _ in range(fresh):
            if kernel.end + STRIDE - kernel.read_to <= SIZE:
                kernel.put(event(put))
                put += 1
        taken = kernel.ring.read(most)
        assert len(taken) <= most
        got += taken
    got += kernel.ring.read(1 << 20)
    kernel.close()
    assert got == [event(number) for number in range(put)]
