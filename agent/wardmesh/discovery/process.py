# SPDX-License-Identifier: Apache-2.0
"""The process that follows the store, a child of the agent: gRPC's threads and memory stay out of the agent.

The first line on stdin says what to do; when it ends, so does the process. Each line on stdout is the state.
What was learned goes into a file, which the agent reads when a line says that it changed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardmesh.discovery.backend import Backend
from wardmesh.discovery.document import read_discovered, write_discovered
from wardmesh.discovery.follower import Follower
from wardmesh.discovery.members import member_document
from wardmesh.discovery.roll import Roll
from wardmesh.discovery.settings import CONSUL, Server, Settings, read_settings, serves_here
from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member, parse_fleet_map, parse_member
from wardmesh.model.labels import read_labels

_NICE = 5  # the agent's own work comes first


@dataclass(frozen=True)
class Order:
    """What the process has to do. values: the configuration's keys etcd.* and discovery.*; root: of Paths."""

    values: Mapping[str, Any]
    own: Member
    cluster: Cluster
    root: str = "/"

    def line(self) -> str:
        """As it goes through the pipe."""
        document = {
            "values": dict(self.values),
            "own": member_document(self.own),
            "cluster": [self.cluster.name, self.cluster.id],
            "root": self.root,
        }
        return json.dumps(document, sort_keys=True) + "\n"


def read_order(line: str) -> Order:
    """The other way."""
    document = json.loads(line)
    name, number = document["cluster"]
    own = parse_member(document["own"], "own member")
    return Order(document["values"], own, Cluster(name, number), document["root"])


def restored(roll: Roll, paths: Paths) -> None:
    """Go on from what was known before; from the last good copy where the file is damaged."""
    for path in (paths.discovered, paths.last_good / paths.discovered.name):
        try:
            data = read_bytes(path)
            if data is not None:
                roll.restore(read_discovered(data, str(path)))
                return
        except WardmeshError:
            continue


def labels_of(path: Path, own: Member) -> Callable[[], Mapping[str, str]]:
    """This host's labels: those given by hand, and over them the map's. A broken file changes nothing."""
    held: dict[str, Any] = {"stamp": None, "labels": dict(own.labels)}

    def read() -> Mapping[str, str]:
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            stamp = None
        if stamp != held["stamp"]:
            held["stamp"] = stamp
            try:
                held["labels"] = {**read_labels(read_bytes(path), str(path)), **own.labels}
            except WardmeshError as error:
                sys.stderr.write(f"{error}\n")
        labels: Mapping[str, str] = held["labels"]
        return labels

    return read


def connect(settings: Settings) -> Callable[[Server, int], Backend]:
    """How to connect to a server; the library is loaded with the first one."""

    def open_one(server: Server, lease: int) -> Backend:
        if settings.kind == CONSUL:
            from wardmesh.discovery.consul import Consul

            return Consul(settings, server, lease)
        from wardmesh.discovery.etcd import Etcd

        return Etcd(settings, server, lease)

    return open_one


def publishing(order: Order, settings: Settings, paths: Paths) -> Callable[[Backend], bool] | None:
    """What a host that runs the fleet's etcd does beside its own record; None on others."""
    addresses = frozenset(map(str, order.own.addresses))
    if settings.kind == CONSUL or not serves_here(settings, addresses):
        return None
    from wardmesh.discovery.etcd import Etcd
    from wardmesh.discovery.publisher import Publisher

    publisher = Publisher(order.cluster, order.own.name, settings.lease, fleet_of(paths))

    def publish(backend: Backend) -> bool:
        return isinstance(backend, Etcd) and publisher.step(backend)

    return publish


def fleet_of(paths: Paths) -> Callable[[], FleetMap | None]:
    """The map in force, read again when its file is another one. The agent writes it; None until then."""
    held: dict[str, Any] = {"stamp": None, "fleet": None}

    def read() -> FleetMap | None:
        try:
            found = paths.shared_fleet.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != held["stamp"]:
                held["fleet"] = parse_fleet_map(paths.shared_fleet.read_bytes(), str(paths.shared_fleet))
                held["stamp"] = stamp
        except (OSError, WardmeshError):
            pass  # it is just being replaced, or not there yet: what was read stays
        fleet: FleetMap | None = held["fleet"]
        return fleet

    return read


def main() -> None:
    """Follow until stdin ends."""
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(_NICE)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    order = read_order(sys.stdin.readline())
    settings = read_settings(order.values)
    if settings is None:
        return
    paths = Paths(Path(order.root))
    roll = Roll(order.cluster, settings.lease, settings.grace)
    restored(roll, paths)

    def told(changed: bool) -> None:
        if changed:
            write_atomic(paths.discovered, write_discovered(roll.found()), 0o600)
        document = {**follower.state.document(roll), "changed": changed}
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    publish = publishing(order, settings, paths)
    labels = labels_of(paths.labels, order.own)
    follower = Follower(settings, order.own, roll, connect(settings), labels, told, publish)
    threading.Thread(target=_until_the_end, args=(follower.stop,), daemon=True).start()
    follower.run()


def _until_the_end(stop: Callable[[], None]) -> None:
    sys.stdin.read()
    stop()
