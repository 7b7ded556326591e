# SPDX-License-Identifier: Apache-2.0
"""Pure: from the fleet map to peers, and from two states to a delta."""

from __future__ import annotations

from collections.abc import Mapping

from wardmesh.model.fleetmap import Endpoint, FleetMap
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState


def desired_peers(fleet: FleetMap, own_key: str) -> dict[str, PeerConfig]:
    """Every other member, by key."""
    return {
        member.key: PeerConfig(member.key, member.endpoint, frozenset(member.networks()), member.keepalive)
        for member in fleet.members
        if member.key != own_key
    }


def diff_peers(
    desired: Mapping[str, PeerConfig],
    present: Mapping[str, PeerState],
    written: Mapping[str, Endpoint | None],
) -> PeerChanges:
    """What to send so that present becomes desired.

    An endpoint is sent for a new peer, for one that was never met, or when the map's endpoint is not the
    one that we wrote last: what WireGuard learned by itself (roaming, NAT) is left alone, also after a
    restart of the agent, when nothing is known of what was written.
    """
    changes = []
    for key, peer in desired.items():
        state = present.get(key)
        if state is None:
            changes.append(peer)
            continue
        moved = peer.endpoint != written.get(key, peer.endpoint if state.last_handshake else state.endpoint)
        if moved or state.allowed_ips != peer.allowed_ips or state.keepalive != peer.keepalive:
            endpoint = peer.endpoint if moved else None
            changes.append(PeerConfig(key, endpoint, peer.allowed_ips, peer.keepalive))
    return PeerChanges(tuple(changes), tuple(key for key in present if key not in desired))
