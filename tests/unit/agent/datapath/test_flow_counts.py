# SPDX-License-Identifier: Apache-2.0
"""A table of flows counted by columns: the numbers are those of looking at each slot."""

from __future__ import annotations

import struct
import tempfile
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.flow_table import FlowTable, _past

SIZES = {
    4: (fw.FLOW4_KEY.size, fw.SLOT4_BYTES, fw.SET4_BYTES),
    6: (fw.FLOW6_KEY.size, fw.SLOT6_BYTES, fw.SET6_BYTES),
}
Row = tuple[
    int, int, int
]  # tag, how long the holder knows of a shorter end than the entry, and its end from now
ROWS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from((0, 2, 3, 256, 1 << 24, 1 << 31)), st.integers(2, (1 << 32) - 1)),
        st.integers(0, 300),
        st.one_of(st.integers(-300, 300), st.integers(-(1 << 31), (1 << 31) - 1)),
    ),
    min_size=2 * fw.WAYS,
    max_size=2 * fw.WAYS,
)
NOW = st.one_of(
    st.integers(0, 1 << 34), st.sampled_from((0, 255, 256, (1 << 31) - 1, 1 << 31, (1 << 32) - 1))
)


def written(family: int, rows: list[Row], now: int) -> BinaryIO:
    """A table with these slots, as the kernel leaves them: an empty one has no entry yet."""
    key, slot, size = SIZES[family]
    memory = bytearray(len(rows) // fw.WAYS * size)
    for place, (tag, behind, entry) in enumerate(rows):
        if not tag:
            continue
        start = place // fw.WAYS * size
        until = (now + entry - behind) % (1 << 32)
        struct.pack_into("=Q", memory, start + 8 * (place % fw.WAYS), until << 32 | tag)
        flow = fw.FLOW.pack(1, 2, 1, 1, 3, 4, 5, 6, 7, 8, (now + entry) % (1 << 32), 9)
        at = start + fw.HEAD.size + place % fw.WAYS * slot + key
        memory[at : at + len(flow)] = flow
    file = tempfile.TemporaryFile()  # noqa: SIM115  the table maps it
    file.write(memory)
    file.flush()
    return file


@settings(max_examples=200, deadline=None)
@given(st.sampled_from((4, 6)), ROWS, NOW)
def test_flows_are_counted_as_one_by_one(family: int, rows: list[Row], now: int) -> None:
    # 0 is the end of those that never were; the ticks of a host meet it once in a hundred years.
    live = [row for row in rows if row[0] and row[2] >= 0 and (now + row[2]) % (1 << 32)]
    with written(family, rows, now) as file, FlowTable(file.fileno(), family, len(rows) // fw.WAYS) as table:
        assert table.live(now) == len(live)


@pytest.mark.parametrize("now", [0, 1, 255, 256, 65_536, 1 << 31, (1 << 32) - 1, 1 << 32])
def test_an_empty_table_has_none(now: int) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * fw.SET4_BYTES)
        with FlowTable(file.fileno(), 4, 4) as table:
            assert table.live(now) == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=9), NOW)
def test_what_lies_before_now(times: list[int], now: int) -> None:
    words = b"".join(struct.pack("=IB3x", time, 255) for time in times)
    wanted = [((time - now) & 1 << 31) != 0 for time in times]
    assert list(_past(words, now).to_bytes(len(times), "little")) == wanted
