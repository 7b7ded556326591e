# SPDX-License-Identifier: Apache-2.0
"""Pure: which peers can be reached through the tunnel. The clock is passed in.

WireGuard gives a session up 180 s after its handshake (REJECT_AFTER_TIME of the protocol); 190 s
leaves room for the handshake that replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wardmesh.wireguard.backend import PeerState

STALE_AFTER = 190.0
RETRY = 5.0
REFRESH = 150.0
MAX_PROVOKED = 10


@dataclass
class _Peer:
    up: bool = False
    since: float = 0.0
    tx_bytes: int = 0
    silent_since: float = 0.0
    provoked: float = 0.0


@dataclass
class Liveness:
    """Feeds on device dumps; says which tunnels are up and whom to provoke."""

    _peers: dict[str, _Peer] = field(default_factory=dict)

    def observe(self, now: float, peers: Mapping[str, PeerState]) -> bool:
        """Take in a dump (now in unix seconds); True when a tunnel came up or went down."""
        changed = False
        for key in set(self._peers) - set(peers):
            del self._peers[key]
            changed = True
        for key, state in peers.items():
            peer = self._peers.setdefault(key, _Peer(tx_bytes=state.tx_bytes))
            fresh = state.last_handshake > 0 and now - state.last_handshake < STALE_AFTER
            sending = state.tx_bytes > peer.tx_bytes
            peer.tx_bytes = state.tx_bytes
            if fresh and not peer.up:
                peer.up, peer.since, changed = True, now, True
            elif peer.up and not fresh and sending:
                peer.silent_since = peer.silent_since or now
                if now - peer.silent_since > RETRY * 2:
                    peer.up, changed = False, True
            if fresh:
                peer.silent_since = 0.0
        return changed

    def up(self, key: str) -> bool:
        """Has a handshake been seen, and has it not gone stale under traffic since?"""
        return key in self._peers and self._peers[key].up

    def up_for(self, key: str, now: float) -> float:
        """Seconds since the tunnel came up, 0 where it is down."""
        return now - self._peers[key].since if self.up(key) else 0.0

    def to_provoke(self, now: float, peers: Mapping[str, PeerState]) -> list[str]:
        """Peers that deserve a handshake now: those that are not up, and idle ones before they go stale."""
        due = []
        for key, state in peers.items():
            peer = self._peers.get(key)
            if peer is None or now - peer.provoked < RETRY:
                continue
            if not peer.up or now - state.last_handshake > REFRESH:
                due.append((peer.provoked, key))
        chosen = [key for _when, key in sorted(due)[:MAX_PROVOKED]]
        for key in chosen:
            self._peers[key].provoked = now
        return chosen
