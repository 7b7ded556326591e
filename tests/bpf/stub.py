# SPDX-License-Identifier: Apache-2.0
"""Programs of four instructions on the real maps, where only pins and filters matter, not the compiler."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from wardmesh.datapath import bpfsys
from wardmesh.datapath.loader import Build
from wardmesh.host.paths import Paths

_PROG_LOAD = 5
_SCHED_CLS = 3


def load(map_fd: int) -> int:
    """A program that mentions a map and passes everything."""
    code = struct.pack("=BBhiBBhi", 0x18, 0x11, 0, map_fd, 0, 0, 0, 0)  # r1 = map
    code += struct.pack("=BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0)  # r0 = TC_ACT_UNSPEC; exit
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(b"GPL")
    return bpfsys._bpf(
        _PROG_LOAD,
        struct.pack(
            "=IIQQ",
            _SCHED_CLS,
            len(code) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(license_text),
        ),
    )


def compile_and_pin(build: Build, pins: Mapping[str, Path], python: str, paths: Paths) -> str:
    """Stands for loader.compile_and_pin; it has nothing to keep."""
    config = bpfsys.obj_get(paths.bpffs / f"maps-{build.contract}" / "config")
    for path in pins.values():
        fd = load(config)
        bpfsys.obj_pin(fd, path)
        os.close(fd)
    os.close(config)
    return "{}"
