# SPDX-License-Identifier: Apache-2.0
"""The child process: compile with bcc, load, pin, exit. Only the standard library and bcc are imported,
so that the agent itself never carries LLVM.

Request on stdin: {"source", "cflags": [..], "headers": folder, "pins": {program name: path}}.
Exit 0: everything is pinned.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys

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
        for name, path in request["pins"].items():
            function = program.load_func(name, bcc.BPF.SCHED_CLS)
            if bcc.lib.bpf_obj_pin(function.fd, os.fsencode(path)):
                sys.stderr.write(f"error: cannot pin {path}\n")
                return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  bcc raises plain Exception; the text is all there is
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    return 0
