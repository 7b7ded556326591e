# SPDX-License-Identifier: Apache-2.0
"""How verbs answer: words for people or one JSON object for machines, on stdout."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any

from wardmesh.host.paths import Paths


def paths_of(args: argparse.Namespace) -> Paths:
    """The host's paths, below the hidden --root."""
    return Paths(args.root)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell, three spaces between them."""
    lines = [head, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join("   ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def emit(args: argparse.Namespace, document: Mapping[str, Any], words: str) -> int:
    """Print one of the two forms; exit status 0."""
    args.answered = True
    print(json.dumps(document) if args.output == "json" else words)
    return 0
