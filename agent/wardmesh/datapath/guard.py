# SPDX-License-Identifier: Apache-2.0
"""The guard: what leaves or enters a physical device towards a member does so in the tunnel, or not at all.

Order of use: ensure_loaded, set_members, set_exceptions, attach. Each of them may be repeated at any time and
changes only what differs; after a kill between any two steps the next call repairs. One process at a time
(the agent's lock).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass

from wardmesh.datapath import bpfsys, contract
from wardmesh.datapath.attachment import Attachment, Device
from wardmesh.datapath.members import Entries, desired_slots, read_slots, write_slots
from wardmesh.datapath.pins import Pins
from wardmesh.datapath.programs import Programs
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError


@dataclass(frozen=True)
class LoadReport:
    """Was a compiler run needed, and how long did loading take (seconds)?"""

    compiled: bool
    seconds: float


@dataclass(frozen=True)
class Counter:
    """What one reason has counted since its maps were made."""

    packets: int
    bytes: int


class Guard:
    """The programs and maps of bpf/guard.c on this host."""

    def __init__(
        self, paths: Paths, listen_port: int, members_max: int, python: str = "/usr/bin/python3"
    ) -> None:
        self._paths = paths
        self._ports: tuple[int, ...] = (listen_port,)
        self._members_max = members_max
        self._pins = Pins(paths.bpffs)
        self._loaded = Programs(
            self._pins,
            "guard.c",
            contract.contract_hash(members_max),
            contract.map_specs(members_max),
            contract.PROGRAMS,
            {"config": self._config(0)},
            python,
            paths,
        )

    # --- loading ---

    def ensure_loaded(self) -> LoadReport:
        """Open the pinned maps and programs; create and compile what is missing or belongs to other maps."""
        start = time.monotonic()
        compiled = self._loaded.ensure_loaded()
        self._write_ports()
        return LoadReport(compiled, time.monotonic() - start)

    def _need(self, name: str) -> int:
        if not self._loaded.maps:
            raise WardmeshError("the guard is not loaded", remedy="ensure_loaded comes first")
        return self._loaded.maps[name]

    def close(self) -> None:
        """Close all descriptors; pins and attached programs stay."""
        self._loaded.close()

    # --- configuration row ---

    def _config(self, flags: int) -> bytes:
        first, second = (*self._ports, 0)[:2]
        return contract.CONFIG.pack(first.to_bytes(2, "big"), second.to_bytes(2, "big"), flags)

    def _flags(self) -> int:
        row = bpfsys.map_lookup(self._need("config"), contract.ROW.pack(0), contract.CONFIG.size)
        return int(contract.CONFIG.unpack(row)[2]) if row else 0

    def _write_config(self, flags: int) -> None:
        row = bpfsys.map_lookup(self._need("config"), contract.ROW.pack(0), contract.CONFIG.size)
        fresh = self._config(flags)
        if row and len(self._ports) == 1:  # just started: a second tunnel may be at work
            fresh = contract.CONFIG.pack(fresh[:2], row[2:4], flags)
        if row != fresh:
            bpfsys.map_update(self._loaded.maps["config"], contract.ROW.pack(0), fresh)

    def _write_ports(self) -> None:
        self._write_config(self._flags())

    def set_listen_ports(self, first: int, second: int = 0) -> None:
        """WireGuard's ports; the second one is used while keys rotate."""
        self._ports = (first, second)
        self._write_ports()

    # --- contents ---

    def set_members(self, members: Entries) -> list[str]:
        """Bring the ipcache to these: network to (identity, flags MEMBER, STRICT, SELF); returns changes."""
        desired = desired_slots(members, self._members_max)
        self._need("ipcache4")
        flags = self._flags()
        wanted = (contract.CFG_PREFIX4 if desired["prefix4"] else 0) | (
            contract.CFG_PREFIX6 if desired["prefix6"] else 0
        )
        self._write_config(flags | wanted)  # look-ups are switched on before the entries come
        lines = write_slots(self._loaded.maps, read_slots(self._loaded.maps), desired)
        others = flags & ~(contract.CFG_PREFIX4 | contract.CFG_PREFIX6)
        self._write_config(others | wanted | contract.CFG_READY)  # and off after they are gone
        return lines

    def set_exceptions(self, exceptions: Iterable[tuple[int, int]]) -> list[str]:
        """Bring the exceptions to these (protocol, port); port 0 is the whole protocol; returns changes."""
        names = {
            contract.exception_key(protocol, port): f"{protocol}/{port}" for protocol, port in exceptions
        }
        if len(names) > contract.MAX_EXCEPTIONS:
            raise WardmeshError(
                f"{len(names)} exceptions, the guard holds {contract.MAX_EXCEPTIONS}",
                where="encryption.exceptions",
            )
        fd = self._need("exceptions")
        present = bpfsys.map_items(fd, contract.EXCEPTION_KEY.size, 4)
        gone = [key for key in present if key not in names]
        bpfsys.map_delete_many(fd, gone)
        fresh = {key: contract.ROW.pack(1) for key in names if key not in present}
        bpfsys.map_update_many(fd, fresh)
        others = self._flags() & ~contract.CFG_EXCEPTIONS
        self._write_config(others | (contract.CFG_EXCEPTIONS if names else 0))
        lines = [f"guard: exception {names[key]} added" for key in fresh]
        for key in gone:
            protocol, _pad, port = contract.EXCEPTION_KEY.unpack(key)
            lines.append(f"guard: exception {protocol}/{int.from_bytes(port, 'big')} removed")
        return lines

    # --- devices ---

    def _attachment(self) -> Attachment:
        return Attachment(self._pins, self._loaded.programs)

    def attach(self, devices: Iterable[Device]) -> list[str]:
        """Attach to these (ifindex, name, has a link layer) where missing or old; returns what changed.

        Other devices that carry an older program of ours get the new one, too; only then older generations
        of pins are removed. Nobody is detached.
        """
        if not self._flags() & contract.CFG_READY:
            raise WardmeshError("the guard knows no members yet", remedy="set_members comes before attach")
        lines = self._attachment().attach(devices)
        for folder in self._pins.stale(self._loaded.generation):
            self._pins.remove(folder)
            lines.append(f"guard: removed the old {folder.name}")
        return lines

    def problems(self, devices: Iterable[Device]) -> list[str]:
        """Filters of others that run before the guard and could take packets past it."""
        return self._attachment().problems(devices)

    def detach_all(self) -> list[str]:
        """Remove our filters from every device, and each clsact qdisc that we made and nobody else uses."""
        return self._attachment().detach_all()

    def teardown(self) -> list[str]:
        """Leave nothing: filters, qdiscs, pins, merged headers."""
        lines = self.detach_all()
        self.close()
        if self._pins.root.is_dir():
            self._pins.remove_all()
            lines.append(f"guard: removed {self._pins.root}")
        shutil.rmtree(self._paths.state / "headers", ignore_errors=True)
        return lines

    # --- counters ---

    def counters(self) -> dict[str, Counter]:
        """Packets and bytes by reason, both directions together."""
        totals = {name: Counter(0, 0) for name in contract.REASONS.values()}
        for (reason, _direction), count in self.counters_by_direction().items():
            total = totals[reason]
            totals[reason] = Counter(total.packets + count.packets, total.bytes + count.bytes)
        return totals

    def counters_by_direction(self) -> dict[tuple[str, str], Counter]:
        """Packets and bytes by (reason, "ingress" or "egress"), summed over all CPUs."""
        fd = self._need("metrics")
        size = contract.METRIC.size * possible_cpus()
        found = {}
        for reason, name in contract.REASONS.items():
            for direction, label in contract.DIRECTIONS.items():
                raw = bpfsys.map_lookup(fd, contract.metric_row(reason, direction), size) or b""
                rows = list(contract.METRIC.iter_unpack(raw))
                found[name, label] = Counter(sum(row[0] for row in rows), sum(row[1] for row in rows))
        return found


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().replace(",", "-").split("-")[-1]) + 1
