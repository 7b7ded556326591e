# SPDX-License-Identifier: Apache-2.0
"""Pure: from the fleet map to peers, and from two states to a delta.

Order inside a delta, so that no packet meets an address that no peer has:
add and gain first (WireGuard moves an allowed IP from its former peer by itself), then replace the
allowed IPs of peers that lose one which nobody gains, then remove peers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from wardmesh.model.fleetmap import Endpoint, FleetMap, Network
from wardmesh.wireguard.backend import PeerChanges, PeerConfig, PeerState, PeerUpdate

Written = Mapping[str, "Endpoint | None"]


def desired_peers(fleet: FleetMap, self_name: str) -> dict[str, PeerConfig]:
    """Every other member as a peer, by public key."""
    return {
        member.key: PeerConfig(member.key, member.endpoint, frozenset(member.networks()), member.keepalive)
        for member in fleet.members
        if member.name != self_name
    }


def diff_peers(
    desired: Mapping[str, PeerConfig],
    present: Mapping[str, PeerState],
    written: Written,
    lost: Collection[str] = (),
) -> PeerChanges:
    """What to send so that present becomes desired.

    written: the endpoints that we set last, by key. An endpoint is sent to a new peer, when the map's is
    not the one that we set last, to a peer that was never met, and to a lost one (it does not answer where
    it is now). Where WireGuard itself found a peer (roaming, NAT) is otherwise left alone.
    """
    add = tuple(peer for key, peer in desired.items() if key not in present)
    updates = []
    for key, peer in desired.items():
        state = present.get(key)
        if state is not None:
            update = _update(peer, state, written.get(key, peer.endpoint), key in lost)
            if update is not None:
                updates.append(update)
    remove = tuple(key for key in present if key not in desired)
    return PeerChanges(add, _ordered(updates, add), remove)


def _update(peer: PeerConfig, state: PeerState, written: Endpoint | None, lost: bool) -> PeerUpdate | None:
    """The change of one peer; allowed_ips is set where it has to lose some."""
    ours = peer.endpoint != written or lost or not state.last_handshake
    endpoint = peer.endpoint if ours and peer.endpoint != state.endpoint else None
    keepalive = peer.keepalive if peer.keepalive != state.keepalive else None
    if peer.allowed_ips == state.allowed_ips:
        if endpoint is None and keepalive is None:
            return None
        return PeerUpdate(peer.key, endpoint, keepalive)
    gained = peer.allowed_ips - state.allowed_ips
    loses = state.allowed_ips - peer.allowed_ips
    return PeerUpdate(peer.key, endpoint, keepalive, gained, peer.allowed_ips if loses else None, loses)


def _ordered(updates: Sequence[PeerUpdate], add: Sequence[PeerConfig]) -> tuple[PeerUpdate, ...]:
    """Gains of every peer before the first replacement; none where another peer gained all that is lost."""
    if not any(update.loses for update in updates):
        return tuple(updates)
    taken: set[Network] = set()
    for peer in add:
        taken |= peer.allowed_ips
    for update in updates:
        taken |= update.gained
    gains = [
        PeerUpdate(update.key, update.endpoint, update.keepalive, update.gained)
        for update in updates
        if update.gained or update.endpoint is not None or update.keepalive is not None
    ]
    replacements = [
        PeerUpdate(update.key, allowed_ips=update.allowed_ips) for update in updates if update.loses - taken
    ]
    return (*gains, *replacements)
