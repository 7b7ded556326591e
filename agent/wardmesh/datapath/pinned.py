# SPDX-License-Identifier: Apache-2.0
"""Maps as they lie in the kernel, opened by their pins to be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from wardmesh.datapath import bpfsys
from wardmesh.datapath.contract import ARRAYS, DIRECTIONS, METRIC, PERCPU_ARRAY, MapSpec, metric_row
from wardmesh.datapath.guard import Counter, possible_cpus
from wardmesh.datapath.pins import close_all, open_pins
from wardmesh.model.errors import WardmeshError

Opened = TypeVar("Opened", bound="PinnedMaps")


class PinnedMaps:
    """Every map of a folder of pins; use as a context manager. what: whose they are, for the error."""

    def __init__(self, folder: Path, specs: Iterable[MapSpec], what: str) -> None:
        self.specs = {spec.name: spec for spec in specs}
        maps = open_pins(folder, self.specs)
        if maps is None:
            raise WardmeshError(
                f"the {what} is not in the kernel",
                where=str(folder),
                remedy="see wardmesh status and its problems; the firewall needs hostFirewall.enabled",
            )
        self.maps = maps

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        close_all(self.maps)

    def items(self, name: str) -> dict[bytes, bytes]:
        """All entries of a map; of one with values for each CPU, these one behind the other."""
        spec = self.specs[name]
        values = possible_cpus() if spec.kind == PERCPU_ARRAY else 1
        return bpfsys.map_items(self.maps[name], spec.key_size, spec.value_size * values)

    def sizes(self) -> list[tuple[str, int, int]]:
        """Name, entries that are there, entries that fit; arrays are always full, rings have none."""
        return [
            (name, spec.max_entries if spec.kind in ARRAYS else len(self.items(name)), spec.max_entries)
            for name, spec in self.specs.items()
            if spec.key_size
        ]

    def counters(self, reasons: Mapping[int, str]) -> dict[tuple[str, str], Counter]:
        """Packets and bytes by (reason, "ingress" or "egress"), summed over all CPUs."""
        size = METRIC.size * possible_cpus()
        found = {}
        for reason, name in reasons.items():
            for direction, label in DIRECTIONS.items():
                raw = bpfsys.map_lookup(self.maps["metrics"], metric_row(reason, direction), size) or b""
                rows = list(METRIC.iter_unpack(raw))
                found[name, label] = Counter(sum(row[0] for row in rows), sum(row[1] for row in rows))
        return found
