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

SIZES = {4: (fw.FLOW4_KEY.size, fw.SLOT4_BYTES), 6: (fw.FLOW6_KEY.size, fw.SLOT6_BYTES)}
ROOM = 40  # slots
# Ends of the flows from now; None: a slot that was taken and is still written for the first time.
ROWS = st.lists(
    st.one_of(st.none(), st.integers(-300, 300), st.integers(-(1 << 31), (1 << 31) - 1)), max_size=ROOM
)
NOW = st.one_of(
    st.integers(0, 1 << 34), st.sampled_from((0, 255, 256, (1 << 31) - 1, 1 << 31, (1 << 32) - 1))
)


def written(family: int, rows: list[int | None], now: int) -> BinaryIO:
    """A table whose first slots have these flows, as the kernel leaves them; others beyond do not count."""
    key, slot = SIZES[family]
    memory = bytearray(b"\xff" * ROOM * slot)
    memory[: len(rows) * slot] = bytes(len(rows) * slot)
    for place, end in enumerate(rows):
        if end is None:
            continue
        flow = fw.FLOW.pack(1, 2, 1, 1, 3, 4, 5, 6, 7, 8, (now + end) % (1 << 32), 9)
        start = place * slot
        memory[start : start + key + len(flow)] = bytes([place + 1]) * key + flow
    file = tempfile.TemporaryFile()  # noqa: SIM115  the table maps it
    file.write(memory)
    file.flush()
    return file


@settings(max_examples=200, deadline=None)
@given(st.sampled_from((4, 6)), ROWS, NOW)
def test_flows_are_counted_as_one_by_one(family: int, rows: list[int | None], now: int) -> None:
    # 0 is the end of those that never were; the ticks of a host meet it once in a hundred years.
    live = [end for end in rows if end is not None and end >= 0 and (now + end) % (1 << 32)]
    with written(family, rows, now) as file, FlowTable(file.fileno(), family, len(rows)) as table:
        assert table.live(now) == len(live)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from((4, 6)), ROWS)
def test_every_flow_is_listed_once(family: int, rows: list[int | None]) -> None:
    with written(family, rows, 1000) as file, FlowTable(file.fileno(), family, len(rows)) as table:
        listed = [(slot.key[0] - 1, fw.FLOW.unpack(slot.flow)[10]) for slot in table.slots()]
    assert listed == [(n, (1000 + end) % (1 << 32)) for n, end in enumerate(rows) if end is not None]


@pytest.mark.parametrize("now", [0, 1, 255, 256, 65_536, 1 << 31, (1 << 32) - 1, 1 << 32])
@pytest.mark.parametrize("taken", [0, 32])
def test_an_empty_table_has_none(now: int, taken: int) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(32 * fw.SLOT4_BYTES)
        with FlowTable(file.fileno(), 4, taken) as table:
            assert table.live(now) == 0
            assert list(table.slots()) == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=9), NOW)
def test_what_lies_before_now(times: list[int], now: int) -> None:
    words = b"".join(struct.pack("=IB3x", time, 255) for time in times)
    wanted = [((time - now) & 1 << 31) != 0 for time in times]
    assert list(_past(words, now).to_bytes(len(times), "little")) == wanted
