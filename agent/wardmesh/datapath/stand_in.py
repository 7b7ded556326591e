# SPDX-License-Identifier: Apache-2.0
"""Closes devices while guard or firewall cannot be loaded: programs of closed_door.py on tc, without pins.

Beside the real programs it changes nothing that they would not: a packet needs all filters. A filter holds
its program by itself, so what one process attached stays when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from wardmesh.datapath import bpfsys
from wardmesh.datapath.attachment import Attachment, Device
from wardmesh.datapath.closed_door import Doors, instructions
from wardmesh.datapath.contract import DIRECTIONS
from wardmesh.datapath.pins import Pins, close_all
from wardmesh.datapath.tc import STAND_IN_PREFIX, Filter, Tc
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError


class StandIn:
    """On this host's devices. cover may be repeated; only what differs is changed."""

    def __init__(self, paths: Paths) -> None:
        self._pins = Pins(paths.bpffs)
        self._doors: Doors | None = None
        self._programs: dict[str, int] = {}

    def _load(self, doors: Doors) -> None:
        if doors == self._doors:
            return
        self.close()
        try:
            for direction, label in DIRECTIONS.items():
                for variant in ("l2", "l3"):
                    name = f"{label}_{variant}"
                    code = instructions(direction, variant == "l2", doors)
                    self._programs[name] = bpfsys.prog_load(bpfsys.SCHED_CLS, name, code, "Apache-2.0")
        except OSError as error:
            self.close()
            raise WardmeshError(
                "the kernel does not take the stand-in for guard and firewall",
                why=error.strerror or str(error),
                remedy="root and CAP_BPF are needed, and a kernel with eBPF",
            ) from error
        self._doors = doors

    def close(self) -> None:
        """Close descriptors; what is attached stays."""
        close_all(self._programs)
        self._programs, self._doors = {}, None

    def cover(self, devices: Iterable[Device], doors: Doors) -> list[str]:
        """Attach where missing; returns what changed. A device that fails does not leave the others open: its
        error is raised when they are done."""
        self._load(doors)
        self._pins.prepare()
        attachment, wanted = Attachment(self._pins, self._programs, STAND_IN_PREFIX), list(devices)
        try:
            return attachment.attach(wanted)
        except WardmeshError as error:
            for device in wanted:
                with suppress(WardmeshError):
                    attachment.attach([device])
            raise error

    def standing(self) -> frozenset[int]:
        """Indexes of the interfaces on which it stands, whoever attached it."""
        with Tc() as tc:
            return frozenset(
                ifindex
                for ifindex in tc.ingress_qdiscs()
                if any(_has(tc.filters(ifindex, way), STAND_IN_PREFIX) for way in DIRECTIONS)
            )

    def release(self, needs: Mapping[int, Iterable[str]], *, loaded: bool) -> list[str]:
        """Remove it from each device on which all real programs stand; returns what changed.

        needs: prefixes of the filters that an interface must have in both directions. From other interfaces,
        which nobody guards, it goes when the programs are loaded.
        """
        with Tc() as tc:
            done = []
            for ifindex in self.standing():
                sides = [tc.filters(ifindex, way) for way in DIRECTIONS]
                wanted = needs.get(ifindex)
                whole = wanted is not None and all(_has(side, prefix) for side in sides for prefix in wanted)
                if whole or (wanted is None and loaded):
                    done.append(ifindex)
        return self._attachment_of_nothing().detach(done)

    def remove(self) -> list[str]:
        """Remove it from every device."""
        return self._attachment_of_nothing().detach_all()

    def _attachment_of_nothing(self) -> Attachment:
        return Attachment(self._pins, {}, STAND_IN_PREFIX)


def _has(filters: Iterable[Filter], prefix: str) -> bool:
    return any(entry.kind == "bpf" and entry.name.startswith(prefix) for entry in filters)
