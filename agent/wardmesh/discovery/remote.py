# SPDX-License-Identifier: Apache-2.0
"""Follows the store of another cluster: its records in, nothing out.

Each kind of record has a connection of its own, because a reader's rights may end at each kind's prefix. What
was learned stays while the store is away, and while its records are refused as a whole: a store whose cluster
has our number, or another one than the configuration says, is read no further until that is put right.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wardmesh.discovery.backend import Backend
from wardmesh.discovery.clusters import Remote
from wardmesh.discovery.follower import STEP, Connect, rounds
from wardmesh.discovery.keys import canary_keys, cluster_key, nodes_prefix
from wardmesh.discovery.learned import Learned
from wardmesh.discovery.records import ClusterConfig, read_cluster
from wardmesh.discovery.remote_roll import RemoteRoll
from wardmesh.discovery.settings import Server, Settings
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError

LOOK = 30.0  # seconds between two looks at the cluster's configuration, upstream's interval of checks
REST = 1.0  # seconds between two files under a storm of changes
_LONGEST_STEP = 5.0  # seconds that one tick may count: a host that slept was not connected
_MOST_NAMED = 20
Told = Callable[[bool], None]


@dataclass
class RemoteFollower:
    """One other cluster. told: after every change, True where what was learned is another.

    refused: records that were not even looked at, because of the cluster's number.
    """

    remote: Remote
    settings: Settings
    own: Cluster
    connect: Connect
    told: Told
    roll: RemoteRoll | None = None
    connected: bool = False
    server: str = ""
    problem: str = "not connected yet"
    refused: int = 0
    last_change: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _tell_at: float = 0.0
    _due: bool = False
    _said: dict[str, Any] = field(default_factory=dict)

    def restore(self, found: Learned) -> None:
        """Go on from what was learned before a restart, where it still fits to the configuration."""
        cluster = found.nodes.cluster
        if cluster.name == self.remote.name and self._wrong_number(cluster.id) == "":
            self.roll = RemoteRoll(cluster, self.settings.grace)
            self.roll.restore(found)

    def stop(self) -> None:
        """From any thread: run returns soon."""
        self._stop.set()

    def run(self) -> None:
        """Until stop is called."""
        rounds(self._stop, self.settings.servers, self._serve)

    def _serve(self, server: Server) -> bool:
        """Stay with one server until it fails; was it of use?"""
        held: list[Backend] = []
        try:
            held.append(self.connect(server, 0))
            roll = self._begin(held[0])
            followed: list[tuple[str, Backend]] = []
            for kind, prefix in roll.prefixes.items():
                backend = held[0] if not followed else self.connect(server, 0)
                if followed:
                    held.append(backend)
                roll.snapshot(kind, backend.snapshot(prefix))
                followed.append((kind, backend))
            self.connected, self.server, self.problem, self.refused = True, server.target, "", 0
            self._follow(roll, followed)
        except WardmeshError as error:
            self.problem = str(error)
        finally:
            useful, self.connected = self.connected, False
            for backend in held:
                backend.close()
            self._tell()
        return useful

    def _begin(self, backend: Backend) -> RemoteRoll:
        """Is it the cluster that is expected, and complete? What its records go into."""
        config = self._config(backend)
        name = self.remote.name
        missing = [
            key
            for key in canary_keys(name, cached=config.cached)
            if config.canaries and backend.get(key) is None
        ]
        if missing:
            raise WardmeshError(
                f"the cluster {name} is not complete in its store yet",
                where=missing[0],
                why="the key is not there",
                remedy="wait; what was learned before stays",
            )
        roll = self.roll
        if roll is None or roll.cluster.id != config.id or roll.cached != config.cached:
            fresh = RemoteRoll(Cluster(name, config.id), self.settings.grace, config.cached)
            if roll is not None:
                fresh.restore(roll.found())
            self.roll = roll = fresh
        return roll

    def _config(self, backend: Backend) -> ClusterConfig:
        key = cluster_key(self.remote.name)
        entry = backend.get(key)
        if entry is None:
            raise WardmeshError(
                f"no cluster {self.remote.name} in this store",
                where=key,
                why="the key is not there",
                remedy="name the cluster as its own hosts do",
            )
        config = read_cluster(key, entry.value)
        why = self._wrong_number(config.id)
        if why:
            self.refused = self._count(backend)
            raise WardmeshError(
                f"the records of cluster {self.remote.name} are refused",
                where=key,
                why=why,
                remedy="give every cluster a number of its own (cluster.id), or correct the list of them",
            )
        return config

    def _wrong_number(self, number: int) -> str:
        if number == self.own.id:
            return f"it has id {number}, as this host's cluster {self.own.name} has"
        if self.remote.id not in (0, number):
            return f"it has id {number}, the configuration says {self.remote.id}"
        return "" if 1 <= number <= 255 else f"its id {number} is outside of 1..255"

    def _count(self, backend: Backend) -> int:
        try:
            return len(backend.snapshot(nodes_prefix(self.remote.name)))
        except WardmeshError:
            return 0

    def _follow(self, roll: RemoteRoll, followed: list[tuple[str, Backend]]) -> None:
        last = time.monotonic()
        look_at = last + LOOK
        while not self._stop.is_set():
            self._tell()
            for kind, backend in followed:
                for change in backend.changes(STEP / len(followed)):
                    roll.take(kind, change)
            now = time.monotonic()
            roll.tick(min(now - last, _LONGEST_STEP))
            last = now
            if now >= look_at:
                look_at = now + LOOK
                self._config(followed[0][1])  # a server that lost its majority must not look well, either

    def document(self) -> dict[str, Any]:
        """For status and logs; lastChange in unix seconds, 0 is never."""
        roll = self.roll
        skipped = {**roll.skipped, **roll.nodes.skipped} if roll else {}
        return {
            "cluster": self.remote.name,
            "connected": self.connected,
            "server": self.server,
            "problem": self.problem,
            "id": roll.cluster.id if roll else self.remote.id,
            "records": len(roll.nodes.claims) if roll else 0,
            "unresolved": roll.unresolved if roll else 0,
            "refusedRecords": self.refused,
            "skipped": len(skipped),
            "skippedRecords": [
                {"key": key[:300], "why": why[:300]} for key, why in sorted(skipped.items())[:_MOST_NAMED]
            ],
            "lastChange": round(self.last_change),
        }

    def _tell(self) -> None:
        now = time.monotonic()
        if self.roll is not None and self.roll.taken():
            self._due = True
        changed = self._due and (now >= self._tell_at or not self.connected)
        if changed:
            self._due, self._tell_at, self.last_change = False, now + REST, time.time()
        said = self.document()
        if changed or said != self._said:
            self._said = said
            self.told(changed)
