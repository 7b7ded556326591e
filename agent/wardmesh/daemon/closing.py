# SPDX-License-Identifier: Apache-2.0
"""A host whose guard or firewall cannot be loaded at boot stays closed, but for what it takes to mend it.

wardmesh-boot.service puts the stand-in on every device before it compiles anything. It goes from each device
on which the real programs stand; what the boot leaves, the agent keeps up and takes down.
"""

from __future__ import annotations

from collections.abc import Iterable

from wardmesh.daemon.machine import Machine, StandInLike
from wardmesh.daemon.stages import Stages
from wardmesh.daemon.state import ModeState
from wardmesh.datapath.attachment import Device
from wardmesh.datapath.closed_door import Doors
from wardmesh.datapath.tc import FIREWALL_PREFIX, PREFIX
from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.policy.documents import PolicySet

STAND_IN, CLOSED = "stand-in", "closed"


def must_close(config: Config, policies: PolicySet, state: ModeState) -> bool:
    """Would this host be more open without its programs than with them?"""
    wall = config.firewall
    return bool(state.sealed) or (wall.enabled and not wall.audit and bool(policies.policies))


def doors_of(config: Config, second_port: int = 0) -> Doors:
    """What stays open. second_port: of the tunnel beside the first, 0 for none."""
    ports = (config.encryption.listen_port, second_port)
    return Doors(
        tuple(port for port in ports if port),
        tuple((item.protocol, item.port) for item in config.firewall.failsafe_ingress),
    )


def needs_of(
    config: Config, devices: Iterable[Device], tunnels: Iterable[Device] = ()
) -> dict[int, tuple[str, ...]]:
    """Which real filters each device needs: the tunnels' packets are inside, so they need no guard."""
    wall = (FIREWALL_PREFIX,) if config.firewall.enabled else ()
    needs = {device[0]: wall for device in tunnels}
    return {**needs, **{device[0]: (PREFIX, *wall) for device in devices}}


class Closing:
    """The agent's part, in each pass. Nothing at all where the boot left nothing."""

    def __init__(self, machine: Machine, stages: Stages) -> None:
        self._machine = machine
        self._stages = stages
        self._stand_in: StandInLike | None = None
        self._stands: bool | None = None  # None: nobody has looked yet

    @property
    def stands(self) -> bool:
        """Is any device closed? The first time the kernel is asked, later our memory."""
        return self._look()

    def _look(self) -> bool:
        if self._stands is None:
            self._stand_in = self._stand_in or self._machine.stand_in()
            try:
                self._stands = bool(self._stand_in.standing())
            except OSError:
                return False  # the next look tells
        return self._stands

    def hold(self, config: Config, devices: tuple[Device, ...], second_port: int = 0) -> list[str]:
        """While it stands anywhere, let it stand on these, too: devices come, and the tunnel is one."""
        if not self.stands or self._stand_in is None:
            return []
        stand_in, doors = self._stand_in, doors_of(config, second_port)
        lines = self._stages.run(STAND_IN, devices, lambda: stand_in.cover(devices, doors))
        self._stages.fail(CLOSED, _problem())
        return lines

    def release(self, needs: dict[int, tuple[str, ...]], *, loaded: bool) -> list[str]:
        """Take it from where the real programs stand. loaded: both are in the kernel, as far as wished."""
        stand_in = self._stand_in
        if not self.stands or stand_in is None:
            return []
        lines = self._stages.run(STAND_IN, None, lambda: stand_in.release(needs, loaded=loaded))
        self._stands = None if lines else True
        if lines and not self._look():
            stand_in.close()
            self._stages.mend(STAND_IN, CLOSED)
        return lines

    def forget(self) -> None:
        """Look again: somebody may have removed it."""
        if self._stand_in is not None:
            self._stand_in.close()
        self._stand_in = self._stands = None


def _problem() -> WardmeshError:
    return WardmeshError(
        "this host is closed to all but its failsafe ports, DHCP and the tunnel",
        why="guard or firewall were not in force when it booted, and are not on every device yet",
        remedy="see the other problems and journalctl -b -u wardmesh-boot; it opens when they are there",
    )
