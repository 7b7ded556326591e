# SPDX-License-Identifier: Apache-2.0
"""The observer's life: events into the ring, the ring to clients and the file (decisions 0014, 0027).

Nothing here can touch enforcement: the agent is another process, and the kernel's programs wait for nobody.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from wardmesh.host.files import read_bytes, stamp
from wardmesh.host.paths import Paths
from wardmesh.model.certificates import server_name
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.observe.credentials import Stamps, rollout_tls, stamps_of, why_unusable
from wardmesh.observe.exporter import Exporter
from wardmesh.observe.flow import Events, FlowSource, Lost, LostSource
from wardmesh.observe.listen import Gate, Plan, plan
from wardmesh.observe.names import Namer, Names
from wardmesh.observe.ring import Ring
from wardmesh.observe.roster import Roster, peers_of
from wardmesh.observe.rpc import RpcServer
from wardmesh.observe.server import ObserverService
from wardmesh.observe.settings import Settings, Tls, read_settings
from wardmesh.observe.stretch import Seen

LOG = logging.getLogger("wardmesh")
POLL = 0.05  # seconds that the kernel is given to gather events: a line is seen within a tenth of a second
_LOOK = 2.0  # seconds between two looks at the files of /etc
_AFTER_ERROR = 1.0
OwnName = Callable[[FleetMap], str]
Told = Callable[[Sequence[Events], int], None]


class Observer:
    """Ring, names, server and exporter of one host."""

    def __init__(self, paths: Paths, source: FlowSource, own_name: OwnName, told: Told | None = None) -> None:
        """Serves from its making on. own_name: this host's name in a fleet map, "" where it is no member.
        told: learns of every batch of events, and how many were lost before it.

        WardmeshError where the configuration is wrong or a library is missing.
        """
        self._paths = paths
        self._source = source
        self._own_name = own_name
        self._tell = told
        self.settings = settings_of(paths)
        self.ring = Ring(self.settings.capacity)
        self.namer = Namer(self._load_names())
        self.roster = Roster(peers_of(self.namer.names.fleet, self.settings.api_port))
        self._gate = Gate((), certified=False)
        self._plan = Plan()
        self._server: RpcServer | None = None
        self._service = ObserverService(
            self.ring, lambda: self.namer.names, self.roster, tls=lambda: self.settings.tls is not None
        )
        self._exporter = self._make_exporter()
        self._told: WardmeshError | None = None
        self._lost = 0
        self._seen: Stamps = self._stamps()
        self._looked = time.monotonic()
        self._stop = threading.Event()
        self._listen()
        if self._exporter is not None:
            self._exporter.start()

    def _make_exporter(self) -> Exporter | None:
        export = self.settings.export
        return Exporter(self.ring, export, lambda: self.namer.names.node_name) if export else None

    # --- running ---

    def run(self) -> None:
        """Until stop is called."""
        while not self._stop.is_set():
            try:
                self.step(POLL)
            except WardmeshError as error:
                LOG.error("%s", error)
                self._stop.wait(_AFTER_ERROR)

    def step(self, timeout: float) -> None:
        """Take in what the kernel has, and every few seconds what /etc has."""
        told = self._source.poll(timeout)
        lost = self._source.lost()
        if self._tell is not None:
            self._tell(told, lost - self._lost)
        for events in told:
            number = self.namer.take(len(events))
            self.ring.put(Seen(events, self.namer.names, number, self.namer.uuid))
        if lost > self._lost:
            now = time.time_ns()
            self.ring.add([Lost(LostSource.KERNEL, lost - self._lost, now, now)])
            self._lost = lost
        if time.monotonic() - self._looked >= _LOOK:
            self._looked = time.monotonic()
            self._tell_of_export()
            self.look()

    def stop(self) -> None:
        """From a signal handler: run returns soon."""
        self._stop.set()

    def forget(self) -> None:
        """From a signal handler: the files of /etc count as new."""
        self._seen = ()
        self._looked = 0.0

    def close(self) -> None:
        """End every stream, write what is left."""
        self.ring.close()
        self.roster.close()
        if self._server is not None:
            self._server.close()
        if self._exporter is not None:
            self._exporter.close()
        self._source.close()

    # --- what lies in /etc ---

    def look(self) -> None:
        """Take in a new fleet map, and listen where strict mode now allows it. Old streams go on."""
        stamps = self._stamps()
        if stamps == self._seen:
            if self._server is None:  # the last try to listen anew has failed
                self._listen()
            return
        self._seen = stamps
        self.settings = with_rollout(self.settings, self._paths)
        self.namer.names = self._load_names()
        self.roster.replace(peers_of(self.namer.names.fleet, self.settings.api_port))
        self._listen()

    def _tell_of_export(self) -> None:
        """One line when the disk fails, and one when it works again."""
        error = self._exporter.error if self._exporter is not None else None
        if str(error) == str(self._told):
            return
        self._told = error
        if error is not None:
            LOG.error("%s", error)
        elif self._exporter is not None:
            LOG.info("hubble: flows are written again, %d were not", self._exporter.failed)

    def _stamps(self) -> Stamps:
        certificates = stamps_of(rollout_tls(self._paths))
        return stamp(self._paths.fleet_in_force), stamp(self._paths.mode), *certificates

    def _load_names(self) -> Names:
        fleet = read_fleet(self._paths)
        return Names(fleet, self._own_name(fleet) if fleet else "")

    def _listen(self) -> None:
        """Bind anew where that changes; members may ask as soon as the map has them."""
        names, tls = self.namer.names, self.settings.tls
        member = names.by_name.get(names.own)
        own = member.addresses if member else ()
        try:
            wanted = plan(self.settings.listen, tls, own, sealed=is_sealed(self._paths))
        except WardmeshError as error:
            if self._server is None:
                raise
            LOG.error("hubble: only the socket is served: %s", error)
            wanted = Plan()
        self._gate = gate_of(names.fleet, tls, self.settings.revoked)
        if self._server is not None and wanted == self._plan:
            return
        problem = why_unusable(tls)
        if problem:  # metrics and the socket go on; the next run of the playbook may mend it
            LOG.error("hubble: only the socket is served: %s", problem)
            wanted, tls = Plan(), None
            if self._server is not None and not self._plan.bindings:
                return
        for warning in wanted.warnings:
            LOG.warning("%s", warning)
        old, self._server = self._server, None
        if old is not None:
            old.close()
        self._plan = wanted
        self._server = RpcServer(
            self._service.handlers(lambda: self._gate), self._paths.hubble, wanted.bindings, tls
        )
        places = [str(self._paths.hubble), *(binding.target() for binding in wanted.bindings)]
        LOG.info("hubble: listens on %s", ", ".join(places))


def read_config(paths: Paths) -> Config:
    """The host's configuration; the defaults where there is none."""
    data = read_bytes(paths.config) or b""
    return parse_config(data.decode("utf-8", "replace"), str(paths.config))


def read_fleet(paths: Paths) -> FleetMap | None:
    """The installed fleet map; None before the first rollout."""
    source = paths.fleet_in_force
    data = read_bytes(source)
    return parse_fleet_map(data, str(source)) if data else None


def is_sealed(paths: Paths) -> bool:
    """Is strict mode in force? What cannot be read counts as no: then nothing is opened."""
    data = read_bytes(paths.mode)
    try:
        return bool(data) and json.loads(data or b"{}").get("mode") == "strict"
    except (ValueError, AttributeError):
        return False


def settings_of(paths: Paths) -> Settings:
    """The hubble keys of the configuration; the certificates of the rollout where it names none."""
    return with_rollout(read_settings(read_config(paths)), paths)


def with_rollout(settings: Settings, paths: Paths) -> Settings:
    """The same with the certificates that the rollout made, as they are there now; configured ones win."""
    if settings.tls is not None and not settings.tls.rollout:
        return settings
    return replace(settings, tls=rollout_tls(paths))


def gate_of(fleet: FleetMap | None, tls: Tls | None, revoked: Iterable[str] = ()) -> Gate:
    """Who may ask under a fleet map: the own cluster's members; others' are asked through their own."""
    members = fleet.home if fleet else ()
    addresses = {address for member in members for address in member.addresses}
    names = None
    if fleet is not None and tls is not None and tls.rollout:
        names = [server_name(member.name, fleet.cluster.name) for member in members]
    certified = tls is not None and tls.client_ca is not None
    return Gate(addresses, certified=certified, names=names, revoked=revoked)
