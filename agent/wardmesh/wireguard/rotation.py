# SPDX-License-Identifier: Apache-2.0
"""Pure: while keys rotate, a second tunnel stands beside the first one; every packet finds one that is up.

A member that is to rotate has a next key in the map. Every pair of which one side has one gets a second
tunnel, between the next keys (the present one of a side that does not rotate), on the port beside. Both
tunnels take in packets of the pair all the time; each host decides for itself through which it sends:

    rotating   the map names a next key; once the host is told to, it sends through the second tunnel
    lingering  the map names none any more, the keys were exchanged on the first tunnel: back to that one as
               soon as it is proved, and the second one goes when the other side is seen to have left it, too

A keepalive runs on the second tunnel as long as this host may send through it. It comes from the kernel, also
while no agent runs: so silence means that the other side sends through the first tunnel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from wardmesh.model.fleetmap import Member
from wardmesh.wireguard.backend import PeerConfig, PeerState

KEEPALIVE = 5  # seconds
QUIET = 4.0 * KEEPALIVE + 1.0  # seconds of silence that say so: four keepalives would have to be lost
NONE, STAGED, ACTIVE, RETIRING = "none", "staged", "active", "retiring"


def rotating_with(own: Member, others: Iterable[Member]) -> frozenset[str]:
    """The members to which the map wants a second tunnel."""
    return frozenset(
        member.name for member in others if (own.next_key or member.next_key) and not member.kubernetes
    )


def second_peers(
    others: Iterable[Member], pairs: Collection[str], sending: Collection[str]
) -> dict[str, PeerConfig]:
    """The peers of the second tunnel by public key. pairs: members that have one with this host;
    sending: those of them to whom this host may still send through it."""
    peers = {}
    for member in others:
        if member.name in pairs:
            keepalive = min(member.keepalive or KEEPALIVE, KEEPALIVE) if member.name in sending else 0
            peers[member.second_key] = PeerConfig(
                member.second_key, member.second_endpoint, frozenset(member.networks()), keepalive
            )
    return peers


def uses_second(*, forward: bool, first_up: bool, second_up: bool) -> bool:
    """Does the route lead through the second tunnel? forward: the host was told to use it, and keys rotate.

    The tunnel that is up wins over the one that is wished: there is no moment without a way.
    """
    if forward:
        return second_up or not first_up
    return second_up and not first_up


def phase_of(rotating: Collection[str], pairs: Collection[str], active: bool) -> str:
    """Where this host stands."""
    if rotating:
        return ACTIVE if active else STAGED
    return RETIRING if pairs else NONE


class Silence:
    """For how long peers of the second tunnel have said nothing; clocks are passed in."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, float]] = {}

    def observe(self, peers: Mapping[str, PeerState], asked: Collection[str], now: float) -> frozenset[str]:
        """asked: keys of the peers to which we do not send any more; those of them that are silent for good.

        Bytes that came in since the last look, a change of keys and a new device begin the count anew.
        """
        heard = {}
        for key in asked:
            if key in peers:
                received, since = self._heard.get(key, (-1, now))
                heard[key] = (peers[key].rx_bytes, since if received == peers[key].rx_bytes else now)
        self._heard = heard
        return frozenset(key for key, (_received, since) in heard.items() if now - since >= QUIET)
