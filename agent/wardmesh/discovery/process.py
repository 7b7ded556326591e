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
from wardmesh.discovery.clusters import Remote, read_remotes
from wardmesh.discovery.document import Claim, read_discovered, write_discovered
from wardmesh.discovery.follower import Follower
from wardmesh.discovery.learned import read_learned, write_learned
from wardmesh.discovery.members import member_document
from wardmesh.discovery.remote import RemoteFollower
from wardmesh.discovery.roll import Roll
from wardmesh.discovery.settings import CONSUL, Server, Settings, read_settings, serves_here
from wardmesh.host.files import read_bytes, stamp, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member
from wardmesh.model.labels import read_labels
from wardmesh.model.map_parser import parse_fleet_map, parse_member

_NICE = 5  # the agent's own work comes first


@dataclass(frozen=True)
class Order:
    """What the process has to do. values: the configuration's keys etcd.*, clustermesh.* and so on; root: of
    Paths; former: keys that this host had before, the newest last."""

    values: Mapping[str, Any]
    own: Member
    cluster: Cluster
    root: str = "/"
    former: tuple[str, ...] = ()

    def line(self) -> str:
        """As it goes through the pipe."""
        document = {
            "values": dict(self.values),
            "own": member_document(self.own),
            "cluster": [self.cluster.name, self.cluster.id],
            "root": self.root,
            "former": list(self.former),
        }
        return json.dumps(document, sort_keys=True) + "\n"


def read_order(line: str) -> Order:
    """The other way."""
    document = json.loads(line)
    name, number = document["cluster"]
    own = parse_member(document["own"], "own member")
    former = tuple(document["former"])
    return Order(document["values"], own, Cluster(name, number), document["root"], former)


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
        now = stamp(path)
        if now != held["stamp"]:
            held["stamp"] = now
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
        now = stamp(paths.shared_fleet)
        if now != held["stamp"]:
            # It may just be replaced, or not be there yet: what was read stays.
            with suppress(OSError, WardmeshError):
                held["fleet"] = parse_fleet_map(paths.shared_fleet.read_bytes(), str(paths.shared_fleet))
                held["stamp"] = now
        fleet: FleetMap | None = held["fleet"]
        return fleet

    return read


class Voice:
    """What several threads say, a line each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def say(self, document: Mapping[str, Any]) -> None:
        """One line on stdout."""
        with self._lock:
            sys.stdout.write(json.dumps(document) + "\n")
            sys.stdout.flush()


def shown_by(path: Path) -> Callable[[], bytes]:
    """What the agent left to be shown, read again when it is another file; b"" while there is none."""
    held: dict[str, Any] = {"stamp": None, "data": b""}

    def read() -> bytes:
        now = stamp(path)
        if now != held["stamp"]:
            held.update(stamp=now, data=read_bytes(path) or b"")
        data: bytes = held["data"]
        return data

    return read


def main() -> None:
    """Follow until stdin ends."""
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(_NICE)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    order = read_order(sys.stdin.readline())
    paths, voice = Paths(Path(order.root)), Voice()
    follow: list[Callable[[], None]] = []
    stop: list[Callable[[], None]] = []
    for remote in read_remotes(order.values, order.cluster):
        if remote.store is not None:
            other = following(remote, remote.store, order.cluster, paths, voice)
            follow.append(other.run)
            stop.append(other.stop)
    settings = read_settings(order.values)
    if settings is not None:
        own = _own(order, settings, paths, voice)
        follow.append(own.run)
        stop.append(own.stop)
    threads = [threading.Thread(target=run, daemon=True) for run in follow]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    for call in stop:
        call()
    for thread in threads:
        thread.join()


def _own(order: Order, settings: Settings, paths: Paths, voice: Voice) -> Follower:
    """Who follows the own cluster's store."""
    roll = Roll(order.cluster, settings.lease, settings.grace)
    restored(roll, paths)

    written: dict[str, tuple[Claim, bytes]] = {}

    def told(changed: bool) -> None:
        if changed:
            write_atomic(paths.discovered, write_discovered(roll.found(), written), 0o600)
        voice.say({**follower.state.document(roll), "changed": changed})

    publish = publishing(order, settings, paths)
    labels = labels_of(paths.labels, order.own)
    follower = Follower(settings, order.own, roll, connect(settings), labels, told, publish, order.former)
    follower.shown = shown_by(paths.shown)
    return follower


def following(remote: Remote, store: Settings, own: Cluster, paths: Paths, voice: Voice) -> RemoteFollower:
    """Who follows another cluster's store. A damaged file is none: the store says everything anew."""
    path = paths.clusters / f"{remote.name}.json"

    def told(changed: bool) -> None:
        if changed and follower.roll is not None:
            write_atomic(path, write_learned(follower.roll.found()), 0o600)
        voice.say({**follower.document(), "changed": changed})

    follower = RemoteFollower(remote, store, own, connect(store), told)
    with suppress(WardmeshError):
        data = read_bytes(path)
        if data is not None:
            follower.restore(read_learned(data, str(path)))
    return follower
