# SPDX-License-Identifier: Apache-2.0
"""Before the network comes up: the guard from the last good state, so that no packet of a sealed member
goes out or comes in plain until the agent runs. There is no tunnel yet; sealed members are out of reach."""

from __future__ import annotations

import time

from wardmesh.daemon import desired
from wardmesh.daemon.cleanup import remove_everything
from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.firewalling import Firewalling
from wardmesh.daemon.inputs import Inputs, had_mesh, load_last_good
from wardmesh.daemon.machine import HostMachine
from wardmesh.daemon.second import SecondTunnel
from wardmesh.daemon.stages import Stages
from wardmesh.daemon.state import STRICT, ModeState, load_state
from wardmesh.host.lock import AgentLock
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError


def guard_from_last_good(paths: Paths) -> list[str]:
    """Load the guard and attach it to every device that is there; returns lines for the journal."""
    if not had_mesh(paths):
        return ["no last good state on this host: nothing to guard"]
    lock = AgentLock(paths.lock)
    try:
        return _guard(paths)
    finally:
        lock.release()


def _guard(paths: Paths) -> list[str]:
    inputs = load_last_good(paths)
    mesh, config = inputs.mesh, inputs.config
    if mesh is None:
        return ["encryption is switched off: nothing to guard"]
    lines = []
    try:
        remembered = load_state(paths.mode)
    except WardmeshError as error:
        lines.append(str(error))
        remembered = ModeState(STRICT, mesh.sealable)
    state = remembered.within(mesh.sealable, config.encryption.mode)
    machine = HostMachine(paths, remove_everything)
    guard = machine.guard(config.encryption.listen_port, config.members_max)
    report = guard.ensure_loaded()
    lines.append(f"guard {'compiled' if report.compiled else 'found pinned'} in {report.seconds:.2f} s")
    second = SecondTunnel(paths, machine, Stages(time.monotonic))
    port = second.port(mesh, config)
    guard.set_listen_ports(config.encryption.listen_port, port)
    guard.set_members(desired.guard_entries(mesh, state))
    guard.set_exceptions((item.protocol, item.port) for item in config.encryption.exceptions)
    lines += guard.attach(machine.before_network(config.devices))
    lines.append(f"mode {state.mode}, {len(state.sealed)} of {len(mesh.others)} members sealed")
    guard.close()
    return lines + _firewall(machine, mesh, inputs, port)


def _firewall(machine: HostMachine, mesh: Mesh, inputs: Inputs, second_port: int) -> list[str]:
    """The last good policies on the same devices; the tunnel's is there only after the agent made it."""
    if not inputs.config.firewall.enabled:
        return []
    stages = Stages(time.monotonic)
    stages.patient = False  # an error here is the unit's failure
    firewalling = Firewalling(machine, stages)
    firewalling.configure(inputs.config)
    lines = firewalling.run(mesh, inputs, machine.before_network(inputs.config.devices), second_port)
    firewalling.release()
    return lines
