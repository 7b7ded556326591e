# SPDX-License-Identifier: Apache-2.0
"""The members as peers of Hubble's API, and what became of them: for Peer.Notify."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wardmesh.model.certificates import server_name
from wardmesh.model.fleetmap import FleetMap

ADDED, DELETED, UPDATED = 1, 2, 3  # peer.ChangeNotificationType
_PATIENCE = 1.0  # seconds after which a stream looks whether its client is there


@dataclass(frozen=True)
class Peer:
    """A member's API. name: cluster/member; address: HOST:PORT; server_name: what its certificate says."""

    name: str
    address: str
    server_name: str


def peers_of(fleet: FleetMap | None, port: int) -> dict[str, Peer]:
    """Every member of the own cluster by cluster/name, on the port of this host's own API."""
    found = {}
    for member in fleet.home if fleet else ():
        cluster = fleet.cluster.name if fleet else ""
        address = member.addresses[0]
        host = f"[{address}]" if address.version == 6 else str(address)
        name = f"{cluster}/{member.name}"
        found[name] = Peer(name, f"{host}:{port}", server_name(member.name, cluster))
    return found


class Roster:
    """The peers as they are now; streams wait for what changes."""

    def __init__(self, peers: dict[str, Peer]) -> None:
        self._peers = peers
        self._changed = threading.Condition()
        self._closed = False

    @property
    def peers(self) -> dict[str, Peer]:
        """By name."""
        return self._peers

    def replace(self, peers: dict[str, Peer]) -> None:
        """The peers of a new fleet map."""
        with self._changed:
            self._peers = peers
            self._changed.notify_all()

    def close(self) -> None:
        """Streams end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def changes(self, active: Callable[[], bool]) -> Iterator[tuple[int, Peer]]:
        """First everybody as ADDED, then what changes, for as long as somebody listens."""
        known: dict[str, Peer] = {}
        while active() and not self._closed:
            now = self._peers
            for name in sorted(known.keys() - now.keys()):
                yield DELETED, known[name]
            for name in sorted(now):
                if name not in known:
                    yield ADDED, now[name]
                elif now[name] != known[name]:
                    yield UPDATED, now[name]
            known = now
            with self._changed:
                if self._peers is known and not self._closed:
                    self._changed.wait(_PATIENCE)
