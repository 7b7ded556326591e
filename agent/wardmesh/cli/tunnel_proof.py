# SPDX-License-Identifier: Apache-2.0
"""Was it encrypted? Told from the route and from the peer's counters on the WireGuard device, not assumed."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from wardmesh.api import client
from wardmesh.cli.local import read_config
from wardmesh.datapath import contract
from wardmesh.datapath.open_pinned import open_guard
from wardmesh.health.record import NO_WAY, PLAIN, TUNNEL
from wardmesh.health.route import Way, way_to
from wardmesh.host.netlink import Netlink
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.backend import PeerState, choose_backend
from wardmesh.wireguard.links import find_link
from wardmesh.wireguard.mark import INTERFACE

OVERHEAD = 32  # bytes that WireGuard adds to a packet and counts (header 16, tag 16)


@dataclass(frozen=True)
class Look:
    """The peer's counters, None where they could not be read, and plain packets to and from members."""

    peer: PeerState | None
    plain: int


@dataclass(frozen=True)
class Evidence:
    """encrypted None: nothing was answered, or nothing could be read; words say what was seen."""

    path: str
    device: str
    endpoint: str
    last_handshake: float
    encrypted: bool | None
    words: str


class Prover:
    """Reads routes and counters; may be used by several threads."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._config = read_config(paths.config, needed=False)
        self._netlink = Netlink()
        self._lock = threading.Lock()
        self.encryption = self._config.encryption.enabled
        status = client.call(paths.socket, "GET", "/v1/status") if self.encryption else {"backend": ""}
        self._backend = choose_backend(str(status["backend"])) if status["backend"] else None

    def look(self, key: str) -> Look:
        """The counters as they are now."""
        with self._lock:
            try:
                peers = self._backend.dump(INTERFACE).peers if self._backend else {}
            except WardmeshError as error:
                raise WardmeshError(
                    "the counters of the tunnel cannot be read",
                    where=INTERFACE,
                    why=str(error),
                    remedy="run it as root",
                ) from error
            return Look(peers.get(key), self._plain())

    def _plain(self) -> int:
        try:
            with open_guard(self._paths, self._config) as guard:
                counted = guard.counters(contract.REASONS)
        except (OSError, WardmeshError):
            return 0
        return sum(count.packets for (reason, _way), count in counted.items() if reason == "Plaintext")

    def way(self, address: str) -> Way:
        """Where the route to an address leads, and the largest packet that it takes."""
        with self._lock:
            way = way_to(self._netlink, address)
            found = find_link(self._netlink, way.device) if way.device else None
        known = [mtu for mtu in (way.mtu, found.mtu if found is not None else 0) if mtu]
        return Way(way.device, min(known, default=0))

    def evidence(self, address: str, before: Look, after: Look, size: int, packets: int) -> Evidence:
        """What the looks before and after an exchange of so many packets and bytes each way prove."""
        device = self.way(address).device
        path = TUNNEL if device == INTERFACE else PLAIN if device else NO_WAY
        peer = after.peer
        sent = peer.tx_bytes - (before.peer.tx_bytes if before.peer else 0) if peer else 0
        received = peer.rx_bytes - (before.peer.rx_bytes if before.peer else 0) if peer else 0
        needed = size + OVERHEAD * packets
        words = f"{INTERFACE} sent {sent} and received {received} bytes of this peer"
        words += f" while {packets} packets of {size} bytes were exchanged"
        plain = after.plain - before.plain
        if plain > 0:
            words += f"; the guard saw {plain} plain packets of members"
        encrypted: bool | None = path == TUNNEL and sent >= needed and received >= needed
        if not packets or (path == TUNNEL and before.peer is None):
            encrypted = None
        return Evidence(
            path,
            device,
            str(peer.endpoint or "") if peer else "",
            peer.last_handshake if peer else 0.0,
            encrypted,
            words if packets else "nothing was answered",
        )
