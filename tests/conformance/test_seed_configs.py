# SPDX-License-Identifier: Apache-2.0
"""Every configuration of the seed documents loads as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wardmesh.discovery.clusters import read_clusters
from wardmesh.model.config import parse_config
from wardmesh.model.schema import BY_PATH, PREFIXES

SEEDS = Path(__file__).parents[3] / "shared/seeds"
# A block begins at a top-level key of ours and goes on while lines are indented, comments or further keys.
TOP = sorted({path.split(".")[0] for path in BY_PATH} | {path for path in PREFIXES if "." not in path})
BEGIN = re.compile(rf"^({'|'.join(map(re.escape, TOP))}):", re.MULTILINE)


def blocks() -> list[str]:
    found: list[str] = []
    for path in sorted(SEEDS.glob("*.txt")):
        current: list[str] = []
        for line in path.read_text().splitlines():
            if BEGIN.match(line) or (current and (not line.strip() or line[0] in " #")):
                current.append(line)
                continue
            if current:
                found.append("\n".join(current))
            current = []
    return list(dict.fromkeys(found))


def test_every_seed_configuration_loads() -> None:
    if not SEEDS.is_dir():
        pytest.skip("../shared is absent: the seed documents are not part of the project")
    texts = [text.replace("${HOST_IP}", "192.0.2.1") for text in blocks()]
    whole = [text for text in texts if text.startswith("cluster:\n")]
    assert len(whole) >= 6
    for text in whole:
        read_clusters(parse_config(text, "seed"))
