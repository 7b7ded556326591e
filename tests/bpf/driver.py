# SPDX-License-Identifier: Apache-2.0
"""A program of a few instructions that gives each packet another source port, then calls the one under test.

So many flows, or only new ones, can be measured inside one test run.
"""

from __future__ import annotations

import ctypes
import os
import struct

from wardmesh.datapath import bpfsys

_PROG_LOAD, _SCHED_CLS, _ARRAY, _PROG_ARRAY = 5, 3, 2, 3
_LOOKUP, _STORE_BYTES, _TAIL_CALL = 1, 9, 12  # helpers, uapi/linux/bpf.h
SOURCE_PORT = {4: 14 + 20, 6: 14 + 40}
SOURCE_MAC = 6  # of a frame; nobody looks at it
DEST_PORT = {4: SOURCE_PORT[4] + 2, 6: SOURCE_PORT[6] + 2}


def _ins(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def _map(dst: int, fd: int) -> bytes:
    return _ins(0x18, dst, 1, 0, fd) + _ins(0)


def _call(helper: int) -> bytes:
    return _ins(0x85, imm=helper)


def _load(code: bytes, kind: int = _SCHED_CLS) -> int:
    text, license_text = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    request = struct.pack(
        "=IIQQ", kind, len(code) // 8, ctypes.addressof(text), ctypes.addressof(license_text)
    )
    return bpfsys._bpf(_PROG_LOAD, request)


def parse_only() -> int:
    """A program that reads what a verdict on an IPv4 TCP packet needs, and passes it."""
    code = (
        _ins(0x61, 2, 1, 76)  # r2 = skb->data
        + _ins(0x61, 3, 1, 80)  # r3 = skb->data_end
        + _ins(0xBF, 4, 2)
        + _ins(0x07, 4, imm=54)
        + _ins(0x2D, 4, 3, 16)  # shorter than the headers: on to the end
        + _ins(0x69, 0, 2, 12)  # type
    )
    for size, offset in ((0x71, 14), (0x69, 20), (0x71, 23), (0x61, 26), (0x61, 30), (0x61, 34), (0x71, 47)):
        code += _ins(size, 5, 2, offset) + _ins(0xAF, 0, 5)
    return _load(code + _ins(0x05) + _ins(0xB7, 0, imm=-1) + _ins(0x95))


class Driver:
    """Descriptors of the driver that writes at this offset; point() chooses what it calls.

    stride: from one packet's port to the next one's; odd, so that all ports have their turn.
    counter: a map in whose first row it counts instead of one of its own.
    """

    def __init__(self, offset: int, stride: int = 1, counter: int | None = None) -> None:
        self._counter = (
            bpfsys.map_create("bench_count", _ARRAY, 4, 8, 1, 0) if counter is None else os.dup(counter)
        )
        self._targets = bpfsys.map_create("bench_target", _PROG_ARRAY, 4, 4, 1, 0)
        code = (
            _ins(0xBF, 6, 1)  # r6 = skb
            + _ins(0x62, 10, 0, -4, 0)  # row 0
            + _map(1, self._counter)
            + _ins(0xBF, 2, 10)
            + _ins(0x07, 2, imm=-4)
            + _call(_LOOKUP)
            + _ins(0x15, 0, 0, 16, 0)  # never; on to the end
            + _ins(0x79, 1, 0)  # r1 = count
            + _ins(0x07, 1, imm=stride)
            + _ins(0x7B, 0, 1)
            + _ins(0x6B, 10, 1, -8)  # sixteen bits of it are the port
            + _ins(0xBF, 1, 6)
            + _ins(0xB7, 2, imm=offset)
            + _ins(0xBF, 3, 10)
            + _ins(0x07, 3, imm=-8)
            + _ins(0xB7, 4, imm=2)
            + _ins(0xB7, 5)
            + _call(_STORE_BYTES)
            + _ins(0xBF, 1, 6)
            + _map(2, self._targets)
            + _ins(0xB7, 3)
            + _call(_TAIL_CALL)
            + _ins(0xB7, 0, imm=-1)
            + _ins(0x95)
        )
        self.fd = _load(code)

    def point(self, program: int) -> int:
        """From now on it calls this program; the driver's own descriptor."""
        bpfsys.map_update(self._targets, bytes(4), struct.pack("=I", program))
        return self.fd

    def close(self) -> None:
        """Let all three go."""
        for fd in (self.fd, self._targets, self._counter):
            os.close(fd)
