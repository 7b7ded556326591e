# SPDX-License-Identifier: Apache-2.0
"""The child process: compile with bcc, load, pin, exit. Only the standard library and bcc are imported,
so that the agent itself never carries LLVM.

Request on stdin: {"source", "cflags": [..], "headers": folder, "pins": {program name: path}}.
Exit 0: everything is pinned; stdout has for each program its instructions, and the kernel's ids of the maps
whose descriptors stand in them: {program name: {"code": base64, "ids": {descriptor: id}}}.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

EXIT_NO_BCC = 3
EXIT_FAILED = 4
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Serve the one request; a killed agent takes its compiler along."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.load(sys.stdin)
    os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    try:
        bcc = importlib.import_module("bcc")
    except (ImportError, OSError, AttributeError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_NO_BCC
    try:
        program = bcc.BPF(text=request["source"], cflags=request["cflags"])
        report = {}
        for name, path in request["pins"].items():
            function = program.load_func(name, bcc.BPF.SCHED_CLS)
            if bcc.lib.bpf_obj_pin(function.fd, os.fsencode(path)):
                sys.stderr.write(f"error: cannot pin {path}\n")
                return EXIT_FAILED
            report[name] = _said(program.dump_func(name))
    except Exception as error:  # noqa: BLE001  bcc raises plain Exception; the text is all there is
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    json.dump(report, sys.stdout)
    return 0


def _said(code: bytes) -> dict[str, Any]:
    """A program's instructions, and whatever in them is a descriptor of a map of this process."""
    values = {int.from_bytes(code[at + 4 : at + 8], sys.byteorder) for at in range(0, len(code), 8)}
    ids = {}
    for value in values:
        try:
            with open(f"/proc/self/fdinfo/{value}") as lines:
                found = dict(line.split(":", 1) for line in lines if ":" in line)
        except OSError:
            continue  # no descriptor: another number
        if "map_id" in found:
            ids[value] = int(found["map_id"])
    return {"code": base64.b64encode(code).decode(), "ids": ids}
