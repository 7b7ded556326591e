# SPDX-License-Identifier: Apache-2.0
"""The guard's part of a pass: programs in the kernel, members with their flags, filters on the devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wardmesh.daemon import desired
from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.machine import GuardLike, Machine, Sight
from wardmesh.daemon.stages import Memo, Stages
from wardmesh.daemon.state import ModeState
from wardmesh.model.config import Config

RECHECK = 30.0  # seconds between two full comparisons of the guard's maps, which only root could have changed
PAUSE = 30.0  # seconds before a failed compiler run is tried again
PROGRAMS, MEMBERS = "guard programs", "guard"


class Guarding:
    """Keeps one guard as it should be."""

    def __init__(self, machine: Machine, stages: Stages, clock: Callable[[], float]) -> None:
        self._machine = machine
        self._stages = stages
        self._clock = clock
        self._memo = Memo()
        self._guard: GuardLike | None = None
        self._members_max = 0
        self._ready = False
        self._written: object = None
        self._recheck_at = 0.0
        self.warnings: list[str] = []

    def configure(self, config: Config) -> None:
        """Another size needs other maps; everything else is written by the next pass."""
        if self._guard is None or config.members_max != self._members_max:
            self.release()
            self._guard = self._machine.guard(config.encryption.listen_port, config.members_max)
            self._members_max = config.members_max
        self._written = None

    @property
    def ready(self) -> bool:
        """Are the programs loaded?"""
        return self._ready

    def release(self) -> None:
        """Close descriptors; what is in the kernel stays."""
        if self._guard is not None and self._ready:
            self._guard.close()
        self._ready = False

    def run(
        self, mesh: Mesh, config: Config, state: ModeState, sight: Sight, second_port: int = 0
    ) -> list[str]:
        """Bring the guard to what is wished; returns what changed. second_port: 0 without a second tunnel."""
        guard = self._guard
        if guard is None:
            return []
        lines = self._stages.run(PROGRAMS, None, lambda: self._load(guard), pause=PAUSE)
        if not self._ready:
            return lines
        key = (mesh, state)
        entries = self._memo.get("entries", key, lambda: desired.guard_entries(mesh, state))
        encryption = config.encryption

        def act() -> list[str]:
            lines: list[str] = []
            due = self._clock() >= self._recheck_at
            if due or self._written != (entries, second_port):
                guard.set_listen_ports(encryption.listen_port, second_port)
                lines += guard.set_members(entries)
                lines += guard.set_exceptions((item.protocol, item.port) for item in encryption.exceptions)
                self._written = (entries, second_port)
            lines += guard.attach(sight.devices)
            if due:
                missing = [f"configured device {name} is not on this host" for name in sight.missing]
                warnings = desired.warnings(mesh, encryption.listen_port)
                self.warnings = [*missing, *warnings, *guard.problems(sight.devices)]
                self._recheck_at = self._clock() + RECHECK
            return lines

        wish = (key, encryption.listen_port, second_port, encryption.exceptions, sight.devices)
        return lines + self._stages.run(MEMBERS, wish, act)

    def _load(self, guard: GuardLike) -> list[str]:
        if self._ready and self._machine.guard_is_pinned():
            return []
        self._ready = False
        report = guard.ensure_loaded()
        self._ready, self._written, self._recheck_at = True, None, 0.0
        how = "compiled" if report.compiled else "found pinned"
        return [f"guard: programs {how} in {report.seconds:.2f} s"]

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Packets and bytes by "reason direction"; empty before the guard is loaded."""
        if self._guard is None or not self._ready:
            return {}
        return {
            f"{reason} {direction}": {"packets": count.packets, "bytes": count.bytes}
            for (reason, direction), count in self._guard.counters_by_direction().items()
        }
