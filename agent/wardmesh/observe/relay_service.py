# SPDX-License-Identifier: Apache-2.0
"""The relay's life: members from the fleet map or from another server, clients on one address."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address, FleetMap
from wardmesh.observe.client import Access
from wardmesh.observe.links import Links, follow_peers
from wardmesh.observe.listen import Gate, plan
from wardmesh.observe.needs import need
from wardmesh.observe.relay import RelayService, start_server
from wardmesh.observe.roster import peers_of
from wardmesh.observe.service import is_sealed, read_fleet, settings_of
from wardmesh.observe.settings import RELAY_PORT, Settings, host_port

LOG = logging.getLogger("wardmesh")
_LOOK = 2.0  # seconds between two looks at the fleet map
_GRACE = 0.5


class _Map:
    """The fleet map as it is now."""

    def __init__(self, paths: Paths, own_name: Callable[[FleetMap], str]) -> None:
        self._paths = paths
        self._own_name = own_name
        self._stamp = -1
        self.fleet: FleetMap | None = None
        self.own = ""

    def changed(self) -> bool:
        """Read it again where it is another one; a broken map leaves the last good one."""
        stamp = _stamp(self._paths.fleet_in_force)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.fleet = read_fleet(self._paths)
        except WardmeshError as error:
            LOG.error("%s", error)
            return False
        self.own = self._own_name(self.fleet) if self.fleet else ""
        return True

    def own_addresses(self) -> tuple[Address, ...]:
        """Those of this host."""
        members = self.fleet.members if self.fleet else ()
        return next((member.addresses for member in members if member.name == self.own), ())

    def addresses(self) -> set[Address]:
        """Those of every member."""
        members = self.fleet.members if self.fleet else ()
        return {address for member in members for address in member.addresses}


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def run_relay(
    paths: Paths,
    listen: str | None,
    peers: str | None,
    own_name: Callable[[FleetMap], str],
    ready: Callable[[], None],
) -> int:
    """Serve until SIGTERM. listen: instead of the configuration's; peers: whose members are taken."""
    need("grpc.aio")  # grpcio 1.32
    settings = settings_of(paths)
    asyncio.run(_serve(paths, settings, listen, peers, own_name, ready))
    return 0


async def _serve(
    paths: Paths,
    settings: Settings,
    listen: str | None,
    peers: str | None,
    own_name: Callable[[FleetMap], str],
    ready: Callable[[], None],
) -> None:
    held = _Map(paths, own_name)
    held.changed()
    where = host_port(listen, "--listen", RELAY_PORT) if listen else settings.relay
    wanted = plan(where, settings.tls, held.own_addresses(), sealed=is_sealed(paths))
    for warning in wanted.warnings:
        LOG.warning("%s", warning)
    cluster = held.fleet.cluster.name if held.fleet else ""
    links = Links(settings.tls, f"{cluster}/{held.own}" if held.own else "", paths.hubble)
    certified = settings.tls is not None and settings.tls.client_ca is not None
    gate = [Gate(held.addresses(), certified=certified)]
    service = RelayService(links, lambda: gate[0], f"{cluster}/{held.own}" if held.own else "relay")
    server = start_server(service.handlers(), wanted.bindings, settings.tls)
    await server.start()
    LOG.info("hubble relay: listens on %s", ", ".join(item.target() for item in wanted.bindings))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watching = None
    if peers:
        access = Access(peers, settings.tls is not None, settings.tls.client_ca if settings.tls else None)
        watching = asyncio.ensure_future(follow_peers(access, links.replace))
    else:
        await links.replace(peers_of(held.fleet, settings.api_port).values())
    ready()
    while not stop.is_set():
        if held.changed():
            gate[0] = Gate(held.addresses(), certified=certified)
            if not peers:
                await links.replace(peers_of(held.fleet, settings.api_port).values())
        try:
            await asyncio.wait_for(stop.wait(), _LOOK)
        except asyncio.TimeoutError:
            continue
    if watching is not None:
        watching.cancel()
    await server.stop(_GRACE)
    await links.close()
