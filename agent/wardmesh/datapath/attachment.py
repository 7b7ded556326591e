# SPDX-License-Identifier: Apache-2.0
"""Programs on devices: attach where missing, swap without a gap, leave others' qdiscs and filters alone."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from wardmesh.datapath import bpfsys
from wardmesh.datapath.contract import DIRECTIONS
from wardmesh.datapath.pins import Pins
from wardmesh.datapath.tc import FIREWALL_PREFIX, PREFIX, STAND_IN_PREFIX, Filter, Tc, free_prio
from wardmesh.model.errors import WardmeshError

Device = tuple[int, str, bool]  # interface index, name, has a link layer (Ethernet header)

_WHAT = {PREFIX: "guard", FIREWALL_PREFIX: "firewall", STAND_IN_PREFIX: "stand-in"}
_FIRST_PRIO = {STAND_IN_PREFIX: 1000}  # leaves the first places to those for which it stands in

_GONE = (errno.ENODEV, errno.ENXIO)  # the device went away meanwhile: netlink says so, the next pass sees it


class Attachment:
    """Our filters on this host's devices. The filter's name tells direction, variant and the program's id.

    prefix tells the guard's filters from the firewall's and the stand-in's.
    """

    def __init__(self, pins: Pins, programs: Mapping[str, int], prefix: str = PREFIX) -> None:
        self._pins = pins
        self._programs = programs
        self._prefix = prefix
        self._what = _WHAT[prefix]
        self._names = {
            name: f"{prefix}{name.replace('_', '-')}-{bpfsys.prog_id(fd)}" for name, fd in programs.items()
        }

    def attach(self, devices: Iterable[Device]) -> list[str]:
        """Bring every given device, and what else carries an older program of ours, to the current ones."""
        lines: list[str] = []
        wanted = list(devices)
        with Tc() as tc:
            for device in wanted:
                with _told(device[1]):
                    lines += self._cover(tc, device)
            done = {device[0] for device in wanted}
            for ifindex in tc.ingress_qdiscs():
                if ifindex not in done:
                    with _told(f"interface {ifindex}"):
                        lines += self._swap_old(tc, ifindex)
        return lines

    def _is_ours(self, entry: Filter) -> bool:
        return entry.kind == "bpf" and entry.name.startswith(self._prefix)

    def _cover(self, tc: Tc, device: Device) -> list[str]:
        ifindex, name, l2 = device
        lines = self._ensure_clsact(tc, ifindex, name)
        for direction, label in DIRECTIONS.items():
            program = f"{label}_{'l2' if l2 else 'l3'}"
            filters = tc.filters(ifindex, direction)
            lines += self._ensure_filter(tc, device, direction, program, filters)
        return lines

    def _ensure_clsact(self, tc: Tc, ifindex: int, name: str) -> list[str]:
        kind = tc.ingress_qdiscs().get(ifindex)
        if kind == "clsact":
            return []
        if kind is not None:
            raise WardmeshError(
                f"the device has an {kind} qdisc, which has no egress hook",
                where=name,
                remedy=f"replace it by clsact and add its filters again: tc qdisc del dev {name} {kind}",
            )
        self._pins.note_clsact(ifindex)
        try:
            tc.add_clsact(ifindex)
        except OSError:
            self._pins.forget_clsact(ifindex)
            raise
        return [f"{self._what}: {name}: clsact added"]

    def _ensure_filter(
        self, tc: Tc, device: Device, direction: int, program: str, filters: list[Filter]
    ) -> list[str]:
        """One current filter of ours; the swap comes first, then surplus ones go."""
        ours = [entry for entry in filters if self._is_ours(entry)]
        name = self._names[program]
        lines = []
        kept = ours[0] if ours else None
        if kept is None or kept.name != name:
            prio = kept.prio if kept else free_prio(filters, _FIRST_PRIO.get(self._prefix, 1))
            tc.replace_filter(device[0], direction, self._programs[program], name, prio)
            done = "swapped" if kept else "attached"
            lines.append(f"{self._what}: {device[1]}: {program.split('_', maxsplit=1)[0]} {done}")
        for surplus in ours[1:]:
            tc.del_filter(device[0], direction, surplus)
        return lines

    def _swap_old(self, tc: Tc, ifindex: int) -> list[str]:
        """A device that is not asked for, but still runs one of our older programs."""
        lines = []
        for direction in DIRECTIONS:
            filters = tc.filters(ifindex, direction)
            ours = [entry for entry in filters if self._is_ours(entry)]
            if ours:
                program = "_".join(ours[0].name[len(self._prefix) :].split("-")[:2])
                device = (ifindex, f"interface {ifindex}", program.endswith("l2"))
                lines += self._ensure_filter(tc, device, direction, program, filters)
        return lines

    def problems(self, devices: Iterable[Device]) -> list[str]:
        """Filters that the kernel runs before ours."""
        lines = []
        with Tc() as tc:
            qdiscs = tc.ingress_qdiscs()
            for ifindex, name, _l2 in devices:
                for direction, label in DIRECTIONS.items():
                    filters = tc.filters(ifindex, direction) if ifindex in qdiscs else []
                    lines += [f"{name} {label}: {problem}" for problem in self._problems(filters)]
        return lines

    def _problems(self, filters: list[Filter]) -> list[str]:
        first = next((index for index, entry in enumerate(filters) if self._is_ours(entry)), None)
        if first is None:
            return [f"the {self._what} is not attached"]
        # Some kinds list several entries for one filter.
        before = dict.fromkeys((other.kind, other.prio) for other in filters[:first] if not other.ours)
        return [
            f"a {kind} filter at priority {prio} runs before the {self._what} and may let packets past it; "
            f"move it to priority {filters[first].prio + 1} or later"
            for kind, prio in before
        ]

    def detach_all(self) -> list[str]:
        """Remove every filter of ours, and the qdiscs that we made and that are empty then."""
        return self.detach(None)

    def detach(self, ifindexes: Iterable[int] | None) -> list[str]:
        """The same on these interfaces; None: on all."""
        chosen = None if ifindexes is None else set(ifindexes)
        lines: list[str] = []
        if chosen == set():
            return lines
        with Tc() as tc:
            for ifindex, kind in tc.ingress_qdiscs().items():
                if chosen is None or ifindex in chosen:
                    with _told(f"interface {ifindex}"):
                        lines += self._uncover(tc, ifindex, kind)
        return lines

    def _uncover(self, tc: Tc, ifindex: int, kind: str) -> list[str]:
        lines = []
        left = 0
        for direction, label in DIRECTIONS.items():
            for entry in tc.filters(ifindex, direction):
                if self._is_ours(entry):
                    tc.del_filter(ifindex, direction, entry)
                    lines.append(f"{self._what}: interface {ifindex}: {label} detached")
                else:
                    left += 1
        if left:  # the note stays: what is left may be ours, too, and whoever goes last takes the qdisc along
            return lines
        if kind == "clsact" and self._pins.made_clsact(ifindex):
            tc.del_clsact(ifindex)
            lines.append(f"{self._what}: interface {ifindex}: clsact removed")
        self._pins.forget_clsact(ifindex)
        return lines


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn a netlink error into ours; a device that just went away is none."""
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            return
        raise WardmeshError(
            "cannot attach the guard",
            where=name,
            why=error.strerror or str(error),
            remedy="see tc qdisc show and tc filter show of the device; the kernel needs CONFIG_NET_CLS_BPF",
        ) from error
