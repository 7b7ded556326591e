# SPDX-License-Identifier: Apache-2.0
"""The second tunnel's part of a pass, while keys rotate (see wireguard/rotation.py for the idea).

Order, so that nothing gets lost or leaks: who has one is on the disk, the guard takes its port, the device
comes up without peers, the firewall stands on it, its sysctls are set; only then it gets peers, and only a
tunnel that is up gets routes. In the end routes go first, then peers one by one, then device and port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.log import LOG
from wardmesh.daemon.machine import Machine, TunnelLike
from wardmesh.daemon.stages import Memo, Stages
from wardmesh.daemon.state import RotationState, load_rotation, save_rotation
from wardmesh.datapath.attachment import Device
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member, second_port
from wardmesh.wireguard.backend import DeviceState, PeerState
from wardmesh.wireguard.liveness import DOWN, UP, Liveness
from wardmesh.wireguard.mark import SECOND_INTERFACE
from wardmesh.wireguard.rotation import Silence, phase_of, rotating_with, second_peers, uses_second
from wardmesh.wireguard.tunnel import TunnelDesired

DEVICE, PEERS = "second tunnel", "second tunnel peers"
PAUSE = 30.0  # seconds before a missing backend is looked for again
Up = Callable[[Member], bool]


class SecondTunnel:
    """Keeps it as it should be; nothing at all while no keys rotate. Only the worker's thread calls it."""

    def __init__(self, paths: Paths, machine: Machine, stages: Stages) -> None:
        self._paths = paths
        self._machine = machine
        self._stages = stages
        self._memo = Memo()
        self._silence = Silence()
        self.liveness = Liveness()
        self.tunnel: TunnelLike | None = None
        remembered = load_rotation(paths.rotation)
        self._damaged = remembered is None
        # Not known: the second tunnel is the one that works in every phase, where it is up.
        self.state = remembered or RotationState(active=True)

    # --- who has one ---

    def rotating(self, mesh: Mesh) -> frozenset[str]:
        """Members to which the map wants one."""
        return self._memo.get("rotating", mesh, lambda: rotating_with(mesh.own, mesh.others))

    def pairs(self, mesh: Mesh) -> frozenset[str]:
        """Members that have one with this host, those of the last rotation included."""

        def make() -> frozenset[str]:
            if self._damaged:  # a tunnel too many harms nobody
                return mesh.member_names
            return self.rotating(mesh) | (self.state.pairs & mesh.member_names)

        return self._memo.get("pairs", (mesh, self.state, self._damaged), make)

    def retiring(self, mesh: Mesh | None) -> bool:
        """Does this map end a rotation? Old keys are gone elsewhere: it is not taken back."""
        return mesh is not None and bool(self.pairs(mesh) - self.rotating(mesh))

    def port(self, mesh: Mesh, config: Config) -> int:
        """The port that guard and firewall must know; 0 while there is none."""
        return second_port(config.encryption.listen_port) if self.pairs(mesh) else 0

    def forward(self, mesh: Mesh, member: Member) -> bool:
        """Is this host to send to the member through it, if that is possible? Keys that hosts change by
        themselves wait for nobody's word."""
        told = self.state.active or not mesh.by_themselves.isdisjoint((member.name, mesh.own.name))
        return told and member.name in self.rotating(mesh)

    def is_up(self, member: Member) -> bool:
        """Is it up? An unknown peer is not."""
        return self.liveness.status(member.second_key) == UP

    def carries(self, mesh: Mesh, member: Member, *, first_up: bool) -> bool:
        """Does the route to the member lead through it?"""
        if not self.ifindex or member.name not in self.pairs(mesh):
            return False
        forward = self.forward(mesh, member)
        return uses_second(forward=forward, first_up=first_up, second_up=self.is_up(member))

    @property
    def ifindex(self) -> int:
        """Of its device; 0 where there is none."""
        return self.tunnel.state.ifindex if self.tunnel is not None else 0

    def device(self) -> tuple[Device, ...]:
        """The device, for the firewall."""
        return ((self.ifindex, SECOND_INTERFACE, False),) if self.ifindex else ()

    def persist(self, state: RotationState) -> None:
        """Remember a state, before the kernel is told."""
        if state != self.state or self._damaged:
            save_rotation(self._paths.rotation, state)
            self.state, self._damaged = state, False

    def check_successor(self, old: Mesh | None, new: Mesh | None) -> None:
        """WardmeshError when keys would rotate with a member that has not left the last second tunnel.

        With keys that hosts change by themselves it is the host's own to wait, and nothing holds it back.
        """
        if old is None or new is None or new.own.name in new.by_themselves:
            return
        late = self.pairs(old) - self.rotating(old)
        if not late:
            return
        again = (late & self.rotating(new)) - new.by_themselves
        before = {member.name: member.second_key for member in old.others}
        names = sorted(
            member.name
            for member in new.others
            if member.name in again
            and (before[member.name], old.own.second_key) != (member.second_key, new.own.second_key)
        )
        if names:
            raise WardmeshError(
                f"the last rotation has not ended with {', '.join(names[:20])}",
                where=str(self._paths.fleet),
                remedy="bring these members back, or remove them by decommission.yml; then rotate again",
            )

    # --- a pass ---

    def prepare(self, mesh: Mesh, config: Config, mtu: int, *, present: bool) -> list[str]:
        """The device, without peers where it is new. present: is there one in the kernel?"""
        pairs = self.pairs(mesh)
        if not pairs:
            return self._remove(config) if present or self.tunnel is not None else []

        def act() -> list[str]:
            self.persist(RotationState(self.state.active, pairs))
            self.tunnel = self.tunnel or self._machine.second_tunnel(config.encryption.backend)
            if present:
                try:
                    self.tunnel.refresh()  # it may be another one than before, and that has no firewall yet
                    return []
                except WardmeshError:
                    LOG.debug("the second tunnel does not answer and is made anew")
            return self.tunnel.reconcile(TunnelDesired(self._private(mesh), self.port(mesh, config), mtu, {}))

        return self._stages.run(DEVICE, pairs, act, pause=PAUSE, prefix="wireguard: ")

    def _private(self, mesh: Mesh) -> bytes:
        private = self._machine.private_keys().get(mesh.own.second_key)
        if private is None:
            raise WardmeshError(
                "the next key that the fleet map names is not staged on this host",
                where=str(self._paths.next_key),
                remedy="run rotate_keys.yml again, so that the registry learns the staged key",
            )
        return private

    def connect(self, mesh: Mesh, config: Config, mtu: int, first_up: Up, *, covered: bool) -> list[str]:
        """Its peers. covered: the firewall stands on the device, or is not wanted."""
        tunnel, pairs = self.tunnel, self.pairs(mesh)
        if tunnel is None or not pairs or not self.ifindex or DEVICE in self._stages.problems:
            return []
        sending = frozenset(m.name for m in mesh.others if not self._left(mesh, m, first_up))
        key = (mesh, pairs, sending & pairs)
        peers = self._memo.get("peers", key, lambda: second_peers(mesh.others, pairs, sending))
        names = self._memo.get("names", mesh, lambda: {m.second_key: m.name for m in mesh.others})
        lost = self.liveness.keys(DOWN)

        def act() -> list[str]:
            if not covered:
                raise WardmeshError("the firewall does not stand on it yet", where=SECOND_INTERFACE)
            lines = self._machine.second_sysctls()
            port = self.port(mesh, config)
            wanted = TunnelDesired(self._private(mesh), port, mtu, peers, names, lost)
            return lines + [f"{SECOND_INTERFACE}: {line}" for line in tunnel.reconcile(wanted)]

        return self._stages.run(PEERS, (key, mtu, lost), act, prefix="wireguard: ")

    def _left(self, mesh: Mesh, member: Member, first_up: Up) -> bool:
        """Is the member one to which this host will not send through it any more?"""
        return member.name not in self.rotating(mesh) and first_up(member)

    def observe(self, mesh: Mesh, first_up: Up, now: float, wall: float) -> bool:
        """Take in its handshakes, wake who is silent; True when a tunnel's state changed."""
        tunnel = self.tunnel
        if tunnel is None or not self.ifindex:
            return False
        changed = self.liveness.observe(tunnel.state.peers, now, wall)
        for member in mesh.others:
            if member.second_key in changed:
                LOG.info(
                    "wireguard: second tunnel: %s: %s", self.liveness.status(member.second_key), member.name
                )
        waiting = [m.second_key for m in mesh.others if not self._left(mesh, m, first_up)]
        keys = self.liveness.to_wake(now, waiting)

        def act() -> list[str]:
            tunnel.provoke(keys)
            return []

        if keys:
            self._stages.run("second handshakes", None, act)
        return bool(changed)

    def refresh(self) -> None:
        """Read the device anew."""
        if self.tunnel is not None and self.ifindex:
            self.tunnel.refresh()

    def awaited(self, mesh: Mesh, first_up: Up) -> bool:
        """Is something about to happen that a close look would see sooner?"""
        rotating, pairs = self.rotating(mesh), self.pairs(mesh)
        return bool(pairs) and any(
            not self.is_up(member) if member.name in rotating else not first_up(member)
            for member in mesh.others
            if member.name in pairs
        )

    def finish(self, mesh: Mesh, config: Config, first_up: Up, now: float) -> list[str]:
        """Let go of the members that have left it; after the last one the device goes.

        Called with routes in force: to these members they lead through the first tunnel.
        """
        tunnel, pairs = self.tunnel, self.pairs(mesh)
        if tunnel is None or not self.ifindex:
            return []
        left = {
            m.second_key: m.name for m in mesh.others if m.name in pairs and self._left(mesh, m, first_up)
        }
        silent = self._silence.observe(tunnel.state.peers, left, now)
        gone = frozenset(left[key] for key in silent)
        if not gone:
            return []
        rest = pairs - gone

        def act() -> list[str]:
            self.persist(RotationState(self.state.active and bool(rest), rest))
            return [f"second tunnel: not used any more: {', '.join(sorted(gone))}"]

        lines = self._stages.run("second tunnel end", None, act, prefix="wireguard: ")
        return lines if self.pairs(mesh) else lines + self._remove(config)

    def _remove(self, config: Config) -> list[str]:
        def act() -> list[str]:
            tunnel = self.tunnel or self._machine.second_tunnel(config.encryption.backend)
            self.persist(RotationState())
            lines = tunnel.teardown()
            self.tunnel, self.liveness, self._silence = None, Liveness(), Silence()
            return lines

        self._stages.mend(PEERS)
        return self._stages.run(DEVICE, None, act, pause=PAUSE, prefix="wireguard: ")

    def forget(self) -> None:
        """Encryption was switched off, or there is another backend; what is in the kernel is the caller's."""
        self.tunnel, self.liveness, self._silence = None, Liveness(), Silence()

    # --- the view ---

    def report(self, mesh: Mesh | None, config: Config, first_up: Up) -> dict[str, Any]:
        """JSON-ready: where this host stands, and who is where."""
        if mesh is None:
            return _document("none", 0, "", (), (), ())
        pairs, rotating = self.pairs(mesh), self.rotating(mesh)
        there = [member for member in mesh.others if member.name in pairs]
        return _document(
            phase_of(rotating, pairs, self.state.active or bool(mesh.by_themselves)),
            self.port(mesh, config),
            mesh.own.next_key,
            [member.name for member in there],
            [m.name for m in there if self.carries(mesh, m, first_up=first_up(m))],
            [m.name for m in there if m.name in rotating and not self.is_up(m)],
        )

    def peer_state(self, member: Member) -> PeerState | None:
        """The member's peer on the second device, None where it has none."""
        state = self.tunnel.state if self.tunnel is not None else DeviceState(0, "", 0, 0)
        return state.peers.get(member.second_key)


def _document(phase: str, port: int, key: str, pairs: Any, sending: Any, waiting: Any) -> dict[str, Any]:
    return {
        "phase": phase,
        "interface": SECOND_INTERFACE if port else "",
        "listenPort": port,
        "nextKey": key,
        "pairs": list(pairs),
        "sending": list(sending),
        "waiting": list(waiting),
    }
