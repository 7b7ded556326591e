# SPDX-License-Identifier: Apache-2.0
"""Pure: which peers can be reached through the tunnel, and whom to wake. Clocks are passed in.

    pending --handshake--> up --we send, no handshake--> down --handshake--> up

A tunnel stays up while it is idle: WireGuard is silent then, and that says nothing. It goes down when we
transmit although the last handshake is older than STALE_AFTER and none follows within GRACE.
Where the numbers come from (WireGuard paper §6): a session is refused 180 s after its handshake
(REJECT_AFTER_TIME), an unanswered initiation is repeated every 5 s (REKEY_TIMEOUT) for 90 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wardmesh.wireguard.backend import PeerState

PENDING, UP, DOWN = "pending", "up", "down"
STALE_AFTER = 190.0
GRACE = 11.0  # two initiations unanswered, and a second
WAKE_AGAIN = 30.0
WAKE_AT_FIRST = 5.0  # a member that is installed at the same time appears within seconds
EAGER_FOR = 60.0
WAKES_PER_SECOND = 10.0


@dataclass(frozen=True)
class PeerLife:
    """What is known of one tunnel. Times in seconds of the monotonic clock."""

    status: str
    since: float
    handshake: float  # as the device tells it; another value is a new handshake
    met: float  # when that handshake was
    tx_bytes: int
    sending: float = 0.0  # since when we send into a stale session, 0: we do not


def first_sight(state: PeerState, now: float, wall: float) -> PeerLife:
    """A peer of which nothing is known yet; wall: the clock of last_handshake, in unix seconds."""
    if not state.last_handshake:
        return PeerLife(PENDING, now, 0.0, 0.0, state.tx_bytes)
    met = now - max(0.0, wall - state.last_handshake)
    return PeerLife(UP, now, state.last_handshake, met, state.tx_bytes)


def next_sight(life: PeerLife, state: PeerState, now: float) -> PeerLife:
    """What another look at the device tells about the peer."""
    if state.last_handshake and state.last_handshake != life.handshake:
        since = life.since if life.status == UP else now
        return PeerLife(UP, since, state.last_handshake, now, state.tx_bytes)
    if not state.last_handshake and life.handshake:  # the device was made anew
        return PeerLife(PENDING, now, 0.0, 0.0, state.tx_bytes)
    sending = life.sending
    if life.status == UP and now - life.met > STALE_AFTER and state.tx_bytes > life.tx_bytes:
        sending = sending or now
    if sending and life.status == UP and now - sending > GRACE:
        return PeerLife(DOWN, now, life.handshake, life.met, state.tx_bytes)
    if sending == life.sending and state.tx_bytes == life.tx_bytes:
        return life
    return PeerLife(life.status, life.since, life.handshake, life.met, state.tx_bytes, sending)


class Liveness:
    """All tunnels of a device."""

    def __init__(self) -> None:
        self._lives: dict[str, PeerLife] = {}
        self._woken: dict[str, float] = {}
        self._allowance = WAKES_PER_SECOND
        self._last = 0.0

    def observe(self, peers: Mapping[str, PeerState], now: float, wall: float) -> tuple[str, ...]:
        """Take in a dump (now: monotonic, wall: unix seconds); the keys whose status changed, or is new."""
        changed = []
        lives = {}
        for key, state in peers.items():
            before = self._lives.get(key)
            life = first_sight(state, now, wall) if before is None else next_sight(before, state, now)
            lives[key] = life
            if before is None or before.status != life.status:
                changed.append(key)
                self._woken.pop(key, None)
        for key in self._lives.keys() - lives.keys():
            self._woken.pop(key, None)
        self._lives = lives
        return tuple(changed)

    def status(self, key: str) -> str:
        """pending, up or down; an unknown peer is pending."""
        life = self._lives.get(key)
        return life.status if life is not None else PENDING

    def up_for(self, key: str, now: float) -> float:
        """For how many seconds the tunnel has been up; 0 where it is not."""
        life = self._lives.get(key)
        return now - life.since if life is not None and life.status == UP else 0.0

    def keys(self, status: str) -> frozenset[str]:
        """The peers of that status."""
        return frozenset(key for key, life in self._lives.items() if life.status == status)

    def to_wake(self, now: float, candidates: Iterable[str] | None = None) -> list[str]:
        """Peers to provoke now, those that waited longest first; it counts them as provoked.

        Due are those that are not up, and those that were up before we first looked but whose session is
        too old to tell. candidates: only these. Never more than WAKES_PER_SECOND in the mean.
        """
        self._allowance = min(WAKES_PER_SECOND, self._allowance + (now - self._last) * WAKES_PER_SECOND)
        self._last = now
        keys = self._lives if candidates is None else [key for key in candidates if key in self._lives]
        due = sorted((self._woken.get(key, float("-inf")), key) for key in keys if self._due(key, now))
        chosen = [key for _when, key in due[: int(self._allowance)]]
        self._allowance -= len(chosen)
        self._woken.update(dict.fromkeys(chosen, now))
        return chosen

    def _due(self, key: str, now: float) -> bool:
        life = self._lives[key]
        woken = self._woken.get(key)
        if life.status == UP:
            return woken is None and life.met < life.since and now - life.met > STALE_AFTER
        if woken is None:
            return True
        return now - woken >= (WAKE_AT_FIRST if now - life.since < EAGER_FOR else WAKE_AGAIN)
