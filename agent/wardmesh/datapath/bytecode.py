# SPDX-License-Identifier: Apache-2.0
"""What the compiler made, kept on the disk: after a reboot the programs are there in no time, without LLVM.

Instructions name maps by descriptors; in the file they are named by their place and the map's name, and get
the descriptors of the maps that are pinned now. The file's name holds the digest of everything that decides
what is compiled (loader.Build: source, flags, kernel with its build, bcc), so another kernel compiles anew.
The kernel verifies whatever is loaded. A file that is damaged, or that root alone did not write, is not used.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wardmesh.datapath import bpfsys
from wardmesh.host.files import check_private, read_bytes, write_atomic
from wardmesh.model.errors import WardmeshError

FORMAT = 1
KEPT = 4  # files for each source: a kernel that is booted again finds its own
_INSTRUCTION = 8  # bytes
_LOAD_64, _CALL = 0x18, 0x85  # opcodes of <linux/bpf.h>: BPF_LD | BPF_IMM | BPF_DW, BPF_JMP | BPF_CALL
_BY_DESCRIPTOR = 1  # BPF_PSEUDO_MAP_FD, in the source register's place


@dataclass(frozen=True)
class Code:
    """A program. instructions: eight bytes each, with zeros where descriptors belong; maps: name by the
    number of the instruction that loads its address."""

    instructions: bytes
    maps: Mapping[int, str]


def unbound(instructions: bytes, names: Mapping[int, str]) -> Code | None:
    """Compiled instructions without their descriptors. names: of maps, by descriptor. None where they refer
    to anything else in this kernel or process: such a program is not kept."""
    if sys.byteorder != "little" or len(instructions) % _INSTRUCTION:
        return None
    code, maps, place = bytearray(instructions), {}, 0
    while place < len(code):
        opcode, registers, _offset, value = struct.unpack_from("<BBhi", code, place)
        source = registers >> 4
        if opcode == _LOAD_64 and source == _BY_DESCRIPTOR:
            if value not in names:
                return None
            maps[place // _INSTRUCTION] = names[value]
            struct.pack_into("<i", code, place + 4, 0)
        elif opcode in (_LOAD_64, _CALL) and source:
            return None
        place += 2 * _INSTRUCTION if opcode == _LOAD_64 else _INSTRUCTION
    return Code(bytes(code), maps)


def bound(code: Code, descriptors: Mapping[str, int]) -> bytes:
    """Instructions that use these maps; KeyError where one is missing."""
    found = bytearray(code.instructions)
    for number, name in code.maps.items():
        struct.pack_into("<i", found, number * _INSTRUCTION + 4, descriptors[name])
    return bytes(found)


def write(path: Path, programs: Mapping[str, Code]) -> None:
    """Keep programs by name, and only the last few files of this source."""
    body = {
        name: {
            "instructions": base64.b64encode(code.instructions).decode(),
            "maps": {str(number): name for number, name in code.maps.items()},
        }
        for name, code in programs.items()
    }
    document = {"format": FORMAT, "programs": body, "digest": _digest(body)}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, json.dumps(document).encode() + b"\n", 0o600)
    family = path.name.partition("-")[0]
    others = sorted(path.parent.glob(f"{family}-*.json"), key=lambda one: one.stat().st_mtime)
    for old in others[:-KEPT]:
        old.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Code] | None:
    """Kept programs by name; None where there are none, or none that may be used."""
    with suppress(WardmeshError, OSError, ValueError, KeyError, TypeError, AttributeError):
        data = read_bytes(path)
        if data is None:
            return None
        check_private(path)
        document = json.loads(data)
        body = document["programs"]
        if document["format"] != FORMAT or document["digest"] != _digest(body):
            return None
        return {
            str(name): Code(
                base64.b64decode(item["instructions"], validate=True),
                {int(number): str(name) for number, name in item["maps"].items()},
            )
            for name, item in body.items()
        }
    return None


def _digest(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def load(name: str, instructions: bytes) -> int:
    """Have the kernel verify and take a tc program; its descriptor. OSError where it refuses."""
    return bpfsys.prog_load(bpfsys.SCHED_CLS, name, instructions, "GPL")


def read_report(line: str) -> dict[str, tuple[bytes, dict[int, int]]]:
    """What the compiler's process says on stdout: instructions by program, and ids of maps by descriptor."""
    return {
        str(name): (base64.b64decode(item["code"]), {int(fd): int(id_) for fd, id_ in item["ids"].items()})
        for name, item in json.loads(line).items()
    }
