# SPDX-License-Identifier: Apache-2.0
"""Which of our programs run on which device, read from the kernel: filters against what is pinned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from wardmesh.datapath import bpfsys
from wardmesh.datapath.attachment import Device
from wardmesh.datapath.contract import DIRECTIONS, PROGRAMS
from wardmesh.datapath.pins import close_all, open_pins
from wardmesh.datapath.tc import FIREWALL_PREFIX, PREFIX, Filter, Tc

RUNS, ANOTHER = "attached", "another program's"
PREFIXES = {"guard": PREFIX, "firewall": FIREWALL_PREFIX}


def pinned_names(folder: Path, maps: Iterable[int], prefix: str) -> frozenset[str]:
    """The filters' names of the programs that are pinned there and work on these maps (descriptors)."""
    ours = {bpfsys.map_id(fd) for fd in maps}
    found: set[str] = set()
    for programs in folder.glob("prog-*"):
        opened = open_pins(programs, PROGRAMS) or {}
        if opened and all(bpfsys.prog_map_ids(fd) <= ours for fd in opened.values()):
            found.update(
                f"{prefix}{name.replace('_', '-')}-{bpfsys.prog_id(fd)}" for name, fd in opened.items()
            )
        close_all(opened)
    return frozenset(found)


def program_facts(devices: Iterable[Device], what: str, names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """What runs on each device and direction, where anything of ours does."""
    prefix = PREFIXES[what]
    with Tc() as tc:
        qdiscs = tc.ingress_qdiscs()
        for ifindex, name, l2 in devices:
            for direction, label in DIRECTIONS.items():
                filters = tc.filters(ifindex, direction) if ifindex in qdiscs else []
                right = f"{prefix}{label}-{'l2' if l2 else 'l3'}-"
                word = _word(filters, prefix, frozenset(item for item in names if item.startswith(right)))
                if word:
                    yield f"{what} on {name} {label}", word


def _word(filters: list[Filter], prefix: str, names: frozenset[str]) -> str:
    ours = [entry for entry in filters if entry.kind == "bpf" and entry.name.startswith(prefix)]
    if not ours:
        return ""
    return RUNS if ours[0].name in names else ANOTHER


def wanted_programs(devices: Iterable[Device], what: str) -> dict[str, str]:
    """The same as it should be."""
    return {
        f"{what} on {name} {label}": RUNS for _index, name, _l2 in devices for label in DIRECTIONS.values()
    }
