# SPDX-License-Identifier: Apache-2.0
"""Before the network comes up: the guard from the last good state, so that no packet of a sealed member
goes out or comes in plain until the agent runs. There is no tunnel yet; sealed members are out of reach.

The stand-in comes first. What loads the real programs may fail, or be ended because it takes too long; the
host is then closed, but for what it takes to mend it, and the agent opens it when the programs are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from wardmesh.daemon import desired
from wardmesh.daemon.cleanup import remove_everything
from wardmesh.daemon.closing import doors_of, must_close, needs_of
from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.firewalling import Firewalling
from wardmesh.daemon.inputs import Inputs, had_mesh, load_last_good
from wardmesh.daemon.machine import BootMachine, HostMachine
from wardmesh.daemon.second import SecondTunnel
from wardmesh.daemon.stages import Stages
from wardmesh.daemon.state import STRICT, ModeState, load_state
from wardmesh.datapath.attachment import Device
from wardmesh.host.files import read_bytes
from wardmesh.host.lock import AgentLock
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError

Say = Callable[[str], None]
KEPT = "the host is closed to all but failsafe ports, DHCP and the tunnel until the agent has its programs"


def guard_from_last_good(paths: Paths, say: Say) -> None:
    """Load the guard and attach it to every device that is there. say: a line for the journal, at once."""
    if not had_mesh(paths):
        say("no last good state on this host: nothing to guard")
        return
    lock = AgentLock(paths.lock)
    try:
        bring_up(paths, HostMachine(paths, remove_everything), say)
    finally:
        lock.release()


def bring_up(paths: Paths, machine: BootMachine, say: Say) -> None:
    """Close, load, open."""
    try:
        inputs = load_last_good(paths)
    except WardmeshError:  # what it enforced cannot be known
        config = _readable_config(paths)
        _close(machine, config, machine.before_network(config.devices), 0, say)
        say(KEPT)
        raise
    mesh, config = inputs.mesh, inputs.config
    if mesh is None:
        say("encryption is switched off: nothing to guard")
        return
    state = _state(paths, mesh, config, say)
    port = SecondTunnel(paths, machine, Stages(time.monotonic)).port(mesh, config)
    devices = machine.before_network(config.devices)
    closed = must_close(config, inputs.policies, state)
    if closed:
        _close(machine, config, devices, port, say)
    try:
        _load(machine, inputs, mesh, state, port, say)
    except Exception:
        if closed:
            say(KEPT)
        raise
    for line in machine.stand_in().release(needs_of(config, devices), loaded=True):
        say(line)


def _readable_config(paths: Paths) -> Config:
    """The one in force, the one in /etc, or the default: its failsafe ports are what stays open."""
    for path in (paths.last_good / "config.yaml", paths.config):
        with suppress(WardmeshError, UnicodeDecodeError):
            data = read_bytes(path)
            if data is not None:
                return parse_config(data.decode(), str(path))
    return parse_config("", "the default configuration")


def _state(paths: Paths, mesh: Mesh, config: Config, say: Say) -> ModeState:
    try:
        remembered = load_state(paths.mode)
    except WardmeshError as error:
        say(str(error))
        remembered = ModeState(STRICT, mesh.sealable)
    return remembered.within(mesh.sealable, config.encryption.mode)


def _close(machine: BootMachine, config: Config, devices: tuple[Device, ...], port: int, say: Say) -> None:
    """Where that fails the real programs may still come: it is said, and they are tried."""
    try:
        for line in machine.stand_in().cover(devices, doors_of(config, port)):
            say(line)
    except WardmeshError as error:
        say(f"a device is not closed: {error}")


def _load(machine: BootMachine, inputs: Inputs, mesh: Mesh, state: ModeState, port: int, say: Say) -> None:
    config = inputs.config
    guard = machine.guard(config.encryption.listen_port, config.members_max)
    report = guard.ensure_loaded()
    say(f"guard {'compiled' if report.compiled else 'found pinned'} in {report.seconds:.2f} s")
    guard.set_listen_ports(config.encryption.listen_port, port)
    guard.set_members(desired.guard_entries(mesh, state))
    guard.set_exceptions((item.protocol, item.port) for item in config.encryption.exceptions)
    for line in guard.attach(machine.before_network(config.devices)):
        say(line)
    say(f"mode {state.mode}, {len(state.sealed)} of {len(mesh.others)} members sealed")
    guard.close()
    for line in _firewall(machine, mesh, inputs, port):
        say(line)


def _firewall(machine: BootMachine, mesh: Mesh, inputs: Inputs, second_port: int) -> list[str]:
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
