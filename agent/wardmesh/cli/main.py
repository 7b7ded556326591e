# SPDX-License-Identifier: Apache-2.0
"""Arguments to verbs, and the one place where a WardmeshError becomes text and an exit status.

Modules that a verb needs are imported when it runs: `wardmesh version` and `status` stay quick.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from pathlib import Path

from wardmesh.cli import verbs
from wardmesh.model.errors import WardmeshError


def parser() -> argparse.ArgumentParser:
    """The whole command line; docs/reference/cli.md is made from it."""
    top = argparse.ArgumentParser(prog="wardmesh", description="Zero-trust network of ordinary Linux hosts.")
    top.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    groups = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_all(groups)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 0 good, 1 an error that was told, 2 wrong usage."""
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None and os.path.basename(sys.argv[0]) == "wardmeshd":
        arguments = ["daemon", *arguments]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the banner on a terminal that knows no UTF-8
    args = parser().parse_args(arguments)
    try:
        status = int(verbs.action_of(args)(args))
        sys.stdout.flush()
        return status
    except WardmeshError as error:
        if getattr(args, "output", "text") == "json" and not getattr(args, "answered", False):
            print(json.dumps({"error": error.as_dict()}))
        print(f"wardmesh: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
