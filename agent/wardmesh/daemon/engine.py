# SPDX-License-Identifier: Apache-2.0
"""The one engine: load, desired, diff, apply. A pass changes only what differs from the kernel.

Order of a pass, so that nothing leaks at any point of it:
  guard      programs, members with their flags, exceptions, filters on the devices
  wireguard  device and peers; then handshakes are read, and proven members of strict mode are sealed
  second     while keys rotate the tunnel beside it (second.py)
  sysctls    rp_filter, before anything comes through the tunnel
  routing    routes of sealed members always, of the others while their tunnel is up; the rules to them
A stage that fails leaves the others working; what it did before stays in the kernel.

Only the worker's thread calls the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from wardmesh.daemon import desired
from wardmesh.daemon.closing import CLOSED, STAND_IN, Closing, needs_of
from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.firewalling import Firewalling
from wardmesh.daemon.guarding import Guarding
from wardmesh.daemon.inputs import (
    Inputs,
    had_mesh,
    load_or_last_good,
    load_successor,
    remember,
    remember_discovered,
    with_discovered,
)
from wardmesh.daemon.log import LOG
from wardmesh.daemon.machine import Machine, Sight, TunnelLike
from wardmesh.daemon.second import DEVICE, PEERS, SecondTunnel
from wardmesh.daemon.sharing import share_map
from wardmesh.daemon.stages import Stages
from wardmesh.daemon.state import STRICT, ModeState, load_state, save_state
from wardmesh.daemon.tunnelling import ALL as TUNNEL_STAGES
from wardmesh.daemon.tunnelling import Tunnelling
from wardmesh.datapath.attachment import Device
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member
from wardmesh.wireguard.events import ADDRESS, LINK, LOST, ROUTE
from wardmesh.wireguard.liveness import DOWN, PENDING, UP, Liveness

SEAL_AFTER = 5.0  # seconds that a new member's tunnel must have been up before only the tunnel counts
EAGER_FOR = 60.0  # seconds after a change during which handshakes are awaited closely
STATE = "state"  # the stage that writes what the agent remembers
_MOST_NAMES = 20  # in one log line


class Engine:
    """Holds what is in force and keeps the kernel to it."""

    def __init__(
        self,
        paths: Paths,
        machine: Machine,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Loads what is to be in force; WardmeshError where there is nothing good, now or before."""
        self.paths = paths
        self._machine = machine
        self._clock, self._wall = clock, wall
        self.stages = Stages(clock)
        self.guarding = Guarding(machine, self.stages, clock)
        self.firewalling = Firewalling(machine, self.stages)
        self.closing = Closing(machine, self.stages)
        self.liveness = Liveness()
        self.second = SecondTunnel(paths, machine, self.stages)
        self.tunnelling = Tunnelling(paths, machine, self.stages, clock)
        self.sight: Sight | None = None
        self._eager_until = 0.0
        self._off: Inputs | None = None
        self.inputs, self.refused = load_or_last_good(paths)
        self._damaged = False
        self._second_changed = False
        self.state = self._load_state()
        self._install(self.inputs)

    # --- what is in force ---

    @property
    def mesh(self) -> Mesh | None:
        """The fleet, None while there is none to build."""
        return self.inputs.mesh

    @property
    def tunnel(self) -> TunnelLike | None:
        """The ordinary tunnel; None before its backend is found."""
        return self.tunnelling.tunnel

    def problems(self) -> list[WardmeshError]:
        """Everything that is wrong now, the refused input first."""
        refused = [self.refused] if self.refused is not None else []
        return [*refused, *self.stages.problems.values()]

    def _load_state(self) -> ModeState:
        try:
            return load_state(self.paths.mode)
        except WardmeshError as error:
            self._damaged = True
            self.stages.fail(STATE, error)
            return ModeState(STRICT, self.mesh.sealable if self.mesh else frozenset())

    def _install(self, new: Inputs) -> None:
        """Make these the inputs in force; what depends on them is made anew by the next pass."""
        if new.config.encryption.backend != self.inputs.config.encryption.backend:
            self.tunnelling.forget()
            self.second.forget()
        self.inputs = new
        try:
            share_map(self.paths, new)
        except (WardmeshError, OSError) as error:
            LOG.error("the map in force is not shared with the observer: %s", error)
        self.guarding.configure(new.config)
        self.firewalling.configure(new.config)
        self._eager_until = self._clock() + EAGER_FOR
        self.stages.restart()

    def effective(self) -> ModeState:
        """The mode in force: what is remembered, as far as the map and the configured mode allow."""
        if self.mesh is None:
            return self.state
        return self.state.within(self.mesh.sealable, self.inputs.config.encryption.mode)

    def persist(self, state: ModeState) -> None:
        """Remember a mode; where that fails, the mode in force stays."""
        if state != self.state or self._damaged:
            save_state(self.paths.mode, state)
            self.state, self._damaged = state, False
            self.stages.mend(STATE)

    def unverified(self) -> list[str]:
        """Names of members whose tunnel is not up."""
        return [m.name for m in self.mesh.others if not self.is_up(m)] if self.mesh else []

    def first_up(self, member: Member) -> bool:
        """Is the member's tunnel up, that of the ordinary port?"""
        return self.liveness.status(member.key) == UP

    def is_up(self, member: Member) -> bool:
        """Is there any tunnel to the member?"""
        return self.first_up(member) or (bool(self.second.ifindex) and self.second.is_up(member))

    # --- passes ---

    def note(self, kinds: Iterable[str]) -> None:
        """Netlink told of changes of these kinds."""
        if not frozenset(kinds).isdisjoint((LINK, ADDRESS, ROUTE, LOST)):
            self.tunnelling.relook()

    def first_pass(self) -> None:
        """The pass after the start. On a host that never had a mesh, an error undoes it and is raised."""
        self.stages.patient = had_mesh(self.paths) or self._damaged
        try:
            self.reconcile()
        except WardmeshError:
            with suppress(WardmeshError):
                self._machine.teardown()
            raise
        self.stages.patient = True
        if not self.stages.problems and self.refused is None:
            self.stages.run(STATE, None, self._remember)
        self._promote()

    def _remember(self) -> list[str]:
        remember(self.paths, self.inputs)
        self.persist(self.effective())
        return []

    def _promote(self) -> None:
        """A map that names the staged key is in force: the old key has no use any more."""
        own = self.mesh.own if self.mesh is not None else None

        def act() -> list[str]:
            if own is None or not self._machine.promote("" if own.next_key else own.key):
                return []
            return [f"wireguard: the staged key {own.key[:10]}… took the old one's place"]

        self.stages.run("key", own.key if own is not None else "", act)

    def reconcile(self) -> list[str]:
        """One pass; returns what had to change, in words."""
        mesh = self.mesh
        if mesh is None:
            return self._nothing_to_build()
        self._look()
        sight = self.sight
        if sight is None:
            return []
        config, port = self.inputs.config, self.second.port(mesh, self.inputs.config)
        lines = self.closing.hold(config, sight.devices, port)
        lines += self.guarding.run(mesh, config, self.effective(), sight, port)
        lines += self.firewalling.before_tunnel(mesh, self.inputs, sight.devices, port)
        lines += self.tunnelling.run(mesh, config, sight, self.liveness.keys(DOWN))
        mtu = self.tunnelling.mtu(mesh, config, sight)
        lines += self.second.prepare(mesh, config, mtu, present=sight.second)
        tunnels = (*self.tunnelling.device(), *self.second.device())
        lines += self.firewalling.run(mesh, self.inputs, (*sight.devices, *tunnels), port)
        lines += self._open(config, sight.devices, tunnels, port)
        if self.tunnel is None or "wireguard" in self.stages.problems:
            return lines
        if self._observe(mesh, self.tunnel):
            lines += self.guarding.run(mesh, config, self.effective(), sight, port)
        lines += self._connect_second(mesh, sight)  # after the look at the handshakes: they say who left it
        lines += self.stages.run("sysctls", sight.names, lambda: self._machine.sysctls(sight.names))
        lines += self._keep_routes(mesh, sight)
        if "routing" in self.stages.problems:
            return lines
        return lines + self.second.finish(mesh, config, self.first_up, self._clock())

    def _open(
        self, config: Config, devices: tuple[Device, ...], tunnels: tuple[Device, ...], port: int
    ) -> list[str]:
        """What the boot had to close, as far as the real programs stand by now."""
        if not self.closing.stands:
            return []
        lines = self.closing.hold(config, tunnels, port) if config.firewall.enabled else []
        loaded = self.guarding.ready and (self.firewalling.ready or not config.firewall.enabled)
        return lines + self.closing.release(needs_of(config, devices, tunnels), loaded=loaded)

    def _connect_second(self, mesh: Mesh, sight: Sight) -> list[str]:
        covered = not self.inputs.config.firewall.enabled or self.firewalling.covers(self.second.ifindex)
        mtu = self.tunnelling.mtu(mesh, self.inputs.config, sight)
        return self.second.connect(mesh, self.inputs.config, mtu, self.first_up, covered=covered)

    def _nothing_to_build(self) -> list[str]:
        """Without a map nothing is touched; when encryption is switched off, what was built goes, once."""
        self.stages.mend("devices", "guard programs", "guard", "sysctls", *TUNNEL_STAGES, DEVICE, PEERS)
        if self.inputs.fleet is None or self._off is self.inputs:
            return []
        self.tunnelling.forget()
        self.second.forget()
        self.liveness = Liveness()
        self.guarding.release()
        self.firewalling.release()
        lines = self.stages.run("removal", None, self._machine.teardown)
        self.closing.forget()
        self.stages.mend(STAND_IN, CLOSED)
        if "removal" not in self.stages.problems:
            self._off = self.inputs
        return lines

    def _look(self) -> None:
        configured = self.inputs.config.devices

        def act() -> list[str]:
            self.sight = self._machine.look(configured)
            return []

        self.stages.run("devices", configured, act)

    def _keep_routes(self, mesh: Mesh, sight: Sight) -> list[str]:
        chosen = desired.members_in_tunnel(mesh, self.effective(), self.is_up)
        beside = self.second.ifindex
        carried = [m for m in chosen if beside and self.second.carries(mesh, m, first_up=self.first_up(m))]
        elsewhere = {network: beside for member in carried for network in member.networks()}
        return self.tunnelling.route(mesh, self.inputs.config, sight, chosen, elsewhere)

    # --- handshakes ---

    def poll(self) -> bool:
        """Look at the handshakes alone; True when a whole pass is due."""
        mesh, tunnel = self.mesh, self.tunnel
        if mesh is None or tunnel is None:
            return False
        before, self._second_changed = self.liveness.keys(UP), False
        try:
            tunnel.refresh()
            self.second.refresh()
        except WardmeshError:
            return True
        return self._observe(mesh, tunnel) or self.liveness.keys(UP) != before or self._second_changed

    def eager(self) -> bool:
        """Is something about to happen that a close look would see sooner?"""
        mesh = self.mesh
        if mesh is None or self.tunnel is None or self._clock() > self._eager_until:
            return False
        state = self.effective()
        unsealed = state.mode == STRICT and bool(mesh.member_names - state.sealed)
        return unsealed or bool(self.unverified()) or self.second.awaited(mesh, self.first_up)

    def _observe(self, mesh: Mesh, tunnel: TunnelLike) -> bool:
        """Take in the handshakes, wake who is silent, seal who is proven; True when somebody was sealed."""
        now = self._clock()
        changed = self.liveness.observe(tunnel.state.peers, now, self._wall())
        if changed:
            self._eager_until = now + EAGER_FOR
        for status in (UP, DOWN, PENDING):
            names = [mesh.names.get(key, key[:10]) for key in changed if self.liveness.status(key) == status]
            if names:
                LOG.info("wireguard: %s: %s", status, listed(names))
        self._wake(tunnel, now)
        if self.second.observe(mesh, self.first_up, now, self._wall()):
            self._eager_until, self._second_changed = now + EAGER_FOR, True
        return self._seal_proven(mesh, now)

    def _wake(self, tunnel: TunnelLike, now: float) -> None:
        keys = self.liveness.to_wake(now)

        def act() -> list[str]:
            tunnel.provoke(keys)
            return []

        if keys:
            self.stages.run("handshakes", None, act)

    def _seal_proven(self, mesh: Mesh, now: float) -> bool:
        """In strict mode, seal members that came later and whose tunnel has proved itself."""
        state = self.effective()
        if state.mode != STRICT:
            return False
        proven = [
            member.name
            for member in mesh.others
            if member.name not in state.sealed and self.liveness.up_for(member.key, now) >= SEAL_AFTER
        ]

        def act() -> list[str]:
            self.persist(ModeState(STRICT, state.sealed.union(proven)))  # before the kernel is told
            return [f"wireguard: sealed: {listed(proven)}"]

        return bool(proven and self.stages.run(STATE, proven, act))

    # --- new inputs ---

    def put_in_force(self, inputs: Inputs) -> list[str]:
        """Take over inputs that were checked already, without remembering them as good."""
        self._install(inputs)
        return self.reconcile()

    def reload(self) -> list[str]:
        """Take in the files of /etc; on an error everything stays as it is, and the error is raised."""
        lines = self._take_over(load_successor(self.paths, self.inputs), remember)
        self.refused = None
        LOG.info(
            "wireguard: generation %d in force", self.inputs.fleet.generation if self.inputs.fleet else 0
        )
        return lines

    def rediscover(self) -> list[str]:
        """Take in what was learned from the store since, and this host's keys where it changed them; like a
        new map, but for what lies in /etc."""
        new = with_discovered(self.paths, self.inputs)
        return [] if new is self.inputs else self._take_over(new, remember_discovered)

    def _take_over(self, new: Inputs, keep: Callable[[Paths, Inputs], None]) -> list[str]:
        """Put new inputs in force and keep them, or go back to the old ones and raise.

        An error that was there before does not count: a new map may well come while a stage is broken. A map
        that ends a rotation stays in force in spite of errors: others have dropped the keys before it.
        """
        self.second.check_successor(self.mesh, new.mesh)
        old, before, rotation = self.inputs, set(self.stages.problems), self.second.state
        self._install(new)
        self.stages.patient = old.mesh is not None
        try:
            lines = self.reconcile()
            fresh = [error for stage, error in self.stages.problems.items() if stage not in before]
            if fresh:
                raise fresh[0]
            keep(self.paths, new)
            self.persist(self.effective())
        except WardmeshError as error:
            self.stages.patient = True
            if self.second.retiring(new.mesh):
                LOG.error("taken over in spite of an error, since keys have changed: %s", error)
                self.stages.fail(STATE, error)
                return []
            LOG.error("not taken over: %s", error)
            self._install(old)
            with suppress(WardmeshError):
                self.second.persist(rotation)
            if old.mesh is None:
                self.stages.run("removal", None, self._machine.teardown)
            self.reconcile()
            raise
        finally:
            self.stages.patient = True
        self._promote()
        return lines


def listed(names: Iterable[str]) -> str:
    """Names for one log line."""
    found = sorted(names)
    rest = len(found) - _MOST_NAMES
    return ", ".join(found[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
