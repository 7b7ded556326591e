# SPDX-License-Identifier: Apache-2.0
"""The firewall's part of a pass: programs, the policy set in the maps, filters on devices and tunnel."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext

from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.figures import Delays
from wardmesh.daemon.firewall_tables import engine_of, tables_of
from wardmesh.daemon.inputs import Inputs
from wardmesh.daemon.machine import FirewallLike, Machine
from wardmesh.daemon.stages import Stages
from wardmesh.datapath.attachment import Device
from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.datapath.fw_tables import PolicyTables
from wardmesh.model.config import HEALTH_PORT, Config
from wardmesh.model.fleetmap import FleetMap
from wardmesh.policy.documents import PolicySet
from wardmesh.policy.engine import Engine

PAUSE = 30.0  # seconds before a failed compiler run is tried again
PROGRAMS, POLICY, OFF = "firewall programs", "firewall", "firewall removal"
TCP, UDP = 6, 17
# DHCP and DHCPv6: (direction, protocol, port of the far side or ours).
DHCP = ((EGRESS, UDP, 67), (INGRESS, UDP, 68), (EGRESS, UDP, 547), (INGRESS, UDP, 546))
# Checks of the members by each other: a policy must not make a peer look dead (decision 0019).
HEALTH = ((EGRESS, TCP, HEALTH_PORT), (INGRESS, TCP, HEALTH_PORT))

Entry = tuple[int, int, int]


def failsafe_of(config: Config) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """What passes before any policy, as (direction, protocol, port): for everybody, and for members only."""
    everybody = (
        *DHCP,
        *((INGRESS, item.protocol, item.port) for item in config.firewall.failsafe_ingress),
        *((EGRESS, item.protocol, item.port) for item in config.firewall.failsafe_egress),
    )
    return everybody, HEALTH if config.health.enabled else ()


class Firewalling:
    """Keeps one firewall as it should be; nothing at all where it is switched off."""

    def __init__(self, machine: Machine, stages: Stages) -> None:
        self._machine = machine
        self._stages = stages
        self._firewall: FirewallLike | None = None
        self._sizes: tuple[int, ...] = ()
        self._ready = False
        self._written: object = None
        self._attached: tuple[Device, ...] = ()
        self._second_port = 0
        self._off = False
        self._judged: tuple[FleetMap | None, Engine | None] = None, None
        self.revision = 0
        self.since = 0.0  # unix seconds: when the revision began, and its counters with it
        self.delays = Delays(time.monotonic)  # from the wish for another policy set to its last map entry

    def configure(self, config: Config) -> None:
        """Other sizes need other maps; everything else is written by the next pass."""
        wall = config.firewall
        sizes = (config.members_max, wall.rows_max, wall.flows_max)
        if self._firewall is None or sizes != self._sizes:
            self.release()
            self._firewall = self._machine.firewall(*sizes)
            self._sizes = sizes
        self._written, self._off = None, False

    def release(self) -> None:
        """Close descriptors; what is in the kernel stays."""
        if self._firewall is not None and self._ready:
            self._firewall.close()
        self._ready, self._attached = False, ()

    def run(self, mesh: Mesh, inputs: Inputs, devices: tuple[Device, ...], second_port: int = 0) -> list[str]:
        """Bring the firewall to what is wished; returns what changed. second_port: 0 for no second tunnel."""
        wall = self._firewall
        if wall is None:
            return []
        if not inputs.config.firewall.enabled:
            return self._switch_off(wall)
        lines = self._stages.run(PROGRAMS, None, lambda: self._load(wall), pause=PAUSE)
        if not self._ready:
            return lines
        key = (mesh, inputs.policies, inputs.config)

        def act() -> list[str]:
            if self._written != key or self._second_port != second_port:  # before a policy could deny them
                wall.set_ports(inputs.config.encryption.listen_port, second_port)
                self._second_port = second_port
            with self.delays.measured() if self._written != key else nullcontext():
                lines = self._write(wall, key, mesh, inputs)
            lines += wall.attach(devices)
            self._attached = devices
            return lines

        return lines + self._stages.run(POLICY, (key, devices, second_port), act)

    @property
    def ready(self) -> bool:
        """Are the programs loaded, and a policy with them?"""
        return self._ready and self._written is not None

    def covers(self, ifindex: int) -> bool:
        """Do all programs stand on this device? Nobody may send through a tunnel before."""
        return any(device[0] == ifindex for device in self._attached)

    def before_tunnel(
        self, mesh: Mesh, inputs: Inputs, devices: tuple[Device, ...], second_port: int = 0
    ) -> list[str]:
        """The physical devices alone, where the firewall is not in place yet: the tunnel's comes later."""
        if self._attached or not inputs.config.firewall.enabled:
            return []
        lines = self.run(mesh, inputs, devices, second_port)
        self._attached = ()
        return lines

    def _load(self, wall: FirewallLike) -> list[str]:
        if self._ready and self._machine.firewall_is_pinned():
            return []
        self._ready = False
        compiled = wall.ensure_loaded()
        self._ready, self._written = True, None
        return [f"firewall: programs {'compiled' if compiled else 'found pinned'}"]

    def _write(self, wall: FirewallLike, key: tuple[object, ...], mesh: Mesh, inputs: Inputs) -> list[str]:
        if self._written is not None and self._written == key:
            return []
        config = inputs.config
        tables = self._tables(mesh, inputs.policies)
        wall.set_failsafe(*failsafe_of(config))
        wall.set_audit(config.firewall.audit)
        self.revision = wall.set_policy(tables)
        self.since = time.time()
        self._written = key
        count = len(inputs.policies.policies)
        return [f"firewall: revision {self.revision}: {count} policies, {len(tables.peers)} peers"]

    def _tables(self, mesh: Mesh, policies: PolicySet) -> PolicyTables:
        """Of one fleet under many sets: what is known of its members is made once."""
        fleet, engine = self._judged
        engine = engine.under(policies) if engine and fleet is mesh.fleet else engine_of(policies, mesh.fleet)
        self._judged = mesh.fleet, engine
        return tables_of(engine, engine.endpoints[mesh.own.name], mesh.numbers)

    def _switch_off(self, wall: FirewallLike) -> list[str]:
        self._stages.mend(PROGRAMS, POLICY)
        if self._off or not (self._ready or self._machine.firewall_is_pinned()):
            return []

        def act() -> list[str]:
            if not self._ready:
                wall.ensure_loaded()
            lines = wall.teardown()
            self._ready, self._written, self._attached, self._off = False, None, (), True
            self.revision = 0
            return lines

        return self._stages.run(OFF, None, act)

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Packets and bytes by "reason direction"; empty where the firewall is off."""
        if self._firewall is None or not self._ready:
            return {}
        return {
            f"{reason} {direction}": {"packets": count.packets, "bytes": count.bytes}
            for (reason, direction), count in self._firewall.counters().items()
            if count.packets
        }
