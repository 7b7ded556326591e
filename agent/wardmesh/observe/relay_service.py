# SPDX-License-Identifier: Apache-2.0
"""The relay's life: members from the fleet map or from another server, clients on one address."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Any

from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.observe.client import Access
from wardmesh.observe.credentials import stamps_of, why_unusable
from wardmesh.observe.held_map import HeldMap
from wardmesh.observe.links import Links, follow_peers
from wardmesh.observe.listen import Gate, Plan, plan
from wardmesh.observe.needs import need
from wardmesh.observe.relay import RelayService, start_server
from wardmesh.observe.roster import peers_of
from wardmesh.observe.service import gate_of, is_sealed, settings_of, with_rollout
from wardmesh.observe.settings import RELAY_PORT, Settings, Tls, host_port

LOG = logging.getLogger("wardmesh")
_LOOK = 2.0  # seconds between two looks at the fleet map and the certificates
_GRACE = 0.5


def run_relay(
    paths: Paths,
    listen: str | None,
    peers: str | None,
    own_name: Callable[[FleetMap], str],
    ready: Callable[[], None],
) -> int:
    """Serve until SIGTERM. listen: instead of the configuration's; peers: whose members are taken."""
    need("grpc.aio")  # grpcio 1.32
    asyncio.run(_Relay(paths, listen, peers, own_name).serve(ready))
    return 0


class _Relay:
    """What runs, and what it was made from."""

    def __init__(
        self, paths: Paths, listen: str | None, peers: str | None, own_name: Callable[[FleetMap], str]
    ) -> None:
        self._paths = paths
        self._peers = peers
        self._held = HeldMap(paths, own_name)
        self._held.changed()
        self._settings: Settings = settings_of(paths)
        self._where = host_port(listen, "--listen", RELAY_PORT) if listen else self._settings.relay
        self._stamps = stamps_of(self._settings.tls)
        cluster, own = self._held.fleet.cluster.name if self._held.fleet else "", self._held.own
        self._links = Links(self._settings.tls, f"{cluster}/{own}" if own else "", paths.hubble)
        self._gate: Gate = gate_of(self._held.fleet, self._settings.tls, self._settings.revoked)
        self._service = RelayService(self._links, lambda: self._gate, f"{cluster}/{own}" if own else "relay")
        self._plan = Plan()
        self._server: Any = None
        self._problem = ""

    async def serve(self, ready: Callable[[], None]) -> None:
        """Until SIGTERM; WardmeshError where the first try to listen fails."""
        await self._listen()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        watching = self._follow()
        await self._members()
        ready()
        while not stop.is_set():
            try:
                await self._look()
            except WardmeshError as error:
                LOG.error("%s", error)
            try:
                await asyncio.wait_for(stop.wait(), _LOOK)
            except asyncio.TimeoutError:
                continue
        if watching is not None:
            watching.cancel()
        await self._close()
        await self._links.close()

    def _follow(self) -> asyncio.Future[None] | None:
        if not self._peers:
            return None
        tls: Tls | None = self._settings.tls
        access = Access(self._peers)
        if tls is not None and not self._peers.startswith(("unix:", "/")):
            access = Access(self._peers, True, tls.client_ca, tls.cert, tls.key)
        return asyncio.ensure_future(follow_peers(access, self._links.replace))

    async def _members(self) -> None:
        if not self._peers:
            await self._links.replace(peers_of(self._held.fleet, self._settings.api_port).values())

    async def _look(self) -> None:
        """Take in a new fleet map and new certificates; open streams go on."""
        changed = self._held.changed()
        self._settings = with_rollout(self._settings, self._paths)
        stamps = stamps_of(self._settings.tls)
        if stamps != self._stamps:
            self._stamps = stamps
            await self._links.secure(self._settings.tls)
        self._gate = gate_of(self._held.fleet, self._settings.tls, self._settings.revoked)
        if changed:
            await self._members()
        await self._listen()

    async def _listen(self) -> None:
        """Bind anew where that changes; what may not be served in plain text any more is closed."""
        tls = self._settings.tls
        try:
            wanted = plan(self._where, tls, self._held.own_addresses(), sealed=is_sealed(self._paths))
        except WardmeshError:
            await self._close()
            raise
        if self._server is not None and wanted == self._plan:
            return
        problem = why_unusable(tls)
        if problem != self._problem and problem:
            LOG.error("hubble relay: nobody is served: %s", problem)
        self._problem = problem
        await self._close()
        if problem:
            return
        for warning in wanted.warnings:
            LOG.warning("%s", warning)
        server = start_server(self._service.handlers(), wanted.bindings, tls)
        await server.start()
        self._server, self._plan = server, wanted
        LOG.info("hubble relay: listens on %s", ", ".join(item.target() for item in wanted.bindings))

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_GRACE)
