# SPDX-License-Identifier: Apache-2.0
"""The tunnel in a pass: WireGuard's device with its peers, the ways to them, routes and rules into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wardmesh.daemon import desired
from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.machine import Machine, Sight, TunnelLike
from wardmesh.daemon.stages import Memo, Stages
from wardmesh.datapath.attachment import Device
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member, Network
from wardmesh.wireguard.mark import INTERFACE
from wardmesh.wireguard.routes import RoutingDesired, addresses_to_look_up, desired_routes, desired_rules
from wardmesh.wireguard.tunnel import TunnelDesired

RELOOK = 60.0  # seconds until the ways to the peers are looked up even though no event asked for it
PAUSE = 30.0  # seconds before a missing backend is looked for again
BACKEND, DEVICE, WAYS, ROUTING = "wireguard backend", "wireguard", "paths", "routing"  # stages
ALL = (BACKEND, DEVICE, WAYS, ROUTING)


class Tunnelling:
    """Keeps the ordinary tunnel as it should be; second.py has the one beside it."""

    def __init__(self, paths: Paths, machine: Machine, stages: Stages, clock: Callable[[], float]) -> None:
        self._paths = paths
        self._machine = machine
        self._stages = stages
        self._clock = clock
        self._memo = Memo()
        self._routing = machine.routing()
        self._ways: desired.Paths = {}
        self._ways_of: Mesh | None = None
        self._relook_at = 0.0
        self.tunnel: TunnelLike | None = None

    def forget(self) -> None:
        """Choose the backend anew in the next pass."""
        self.tunnel = None

    def relook(self) -> None:
        """The next pass looks up the ways to all peers."""
        self._relook_at = 0.0

    def device(self) -> tuple[Device, ...]:
        """The tunnel as a device for filters; empty while there is none."""
        ifindex = self.tunnel.state.ifindex if self.tunnel is not None else 0
        return ((ifindex, INTERFACE, False),) if ifindex else ()

    def mtu(self, mesh: Mesh, config: Config, sight: Sight) -> int:
        """Bytes; what the narrowest way to a peer leaves, where none is configured."""
        key = (mesh, self._ways, config.mtu, sight.tunnel_mtu)
        return self._memo.get(
            "mtu", key, lambda: desired.tunnel_mtu(mesh, self._ways, config.mtu, sight.tunnel_mtu)
        )

    def run(self, mesh: Mesh, config: Config, sight: Sight, lost: frozenset[str]) -> list[str]:
        """Bring device and peers to what is wished. lost: keys of peers that are silent."""
        self._find_ways(mesh)
        encryption, mtu = config.encryption, self.mtu(mesh, config, sight)

        def choose() -> list[str]:
            self.tunnel = self.tunnel or self._machine.tunnel(encryption.backend)
            return []

        def act() -> list[str]:
            if self.tunnel is None:
                return []
            private = self._private(mesh.own.key)
            wanted = TunnelDesired(private, encryption.listen_port, mtu, mesh.peers, mesh.names, lost)
            return self.tunnel.reconcile(wanted)

        self._stages.run(BACKEND, encryption.backend, choose, pause=PAUSE)
        wish = (mesh, mtu, lost, encryption.listen_port, encryption.backend)
        return self._stages.run(DEVICE, wish, act, prefix="wireguard: ")

    def _private(self, public: str) -> bytes:
        private = self._machine.private_keys().get(public)
        if private is None:
            raise WardmeshError(
                "the private key is not the one that the fleet map knows",
                where=str(self._paths.key),
                remedy="run the playbook for this host, so that the registry learns its key",
            )
        return private

    def _find_ways(self, mesh: Mesh) -> None:
        """Ways do not depend on the map: a new one asks only for the addresses that it adds."""
        due = self._clock() >= self._relook_at
        if not due and self._ways_of is mesh:
            return

        def act() -> list[str]:
            wanted = addresses_to_look_up(mesh.others)
            asked = wanted if due else [address for address in wanted if address not in self._ways]
            found = self._machine.paths_to(asked) if asked else {}
            found = found if due else {**self._ways, **found}
            if found != self._ways:
                self._ways = found
            self._ways_of = mesh
            self._relook_at = self._clock() + RELOOK if due else self._relook_at
            return []

        self._stages.run(WAYS, None, act)

    def route(
        self,
        mesh: Mesh,
        config: Config,
        sight: Sight,
        chosen: Sequence[Member],
        elsewhere: Mapping[Network, int],
    ) -> list[str]:
        """Routes of the chosen members and the rules to them. elsewhere: networks to another device, by its
        ifindex."""
        mtu, ways, families = self.mtu(mesh, config, sight), self._ways, sight.families
        key = (tuple(member.name for member in chosen), mesh, ways, mtu, families)
        routes = self._memo.get("routes", key, lambda: desired_routes(chosen, mesh.own, ways, mtu, families))
        rules = desired_rules(mesh.own.allowed_ips, sight.names, families)
        ifindex = self.tunnel.state.ifindex if self.tunnel is not None else 0
        wanted = RoutingDesired(ifindex, routes, rules, elsewhere)
        return self._stages.run(ROUTING, (key, rules, elsewhere), lambda: self._routing.reconcile(wanted))
