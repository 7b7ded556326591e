# SPDX-License-Identifier: Apache-2.0
"""When a tunnel counts as up, when it no longer does, and whom we wake."""

from __future__ import annotations

import pytest

from wardmesh.wireguard.backend import PeerState
from wardmesh.wireguard.liveness import MAX_PROVOKED, REFRESH, RETRY, Liveness

START = 1_000_000.0


def peer(handshake: float = 0.0, tx: int = 0, key: str = "a") -> PeerState:
    return PeerState(key, None, frozenset(), 0, handshake, 0, tx)


Look = tuple[
    float, float, int, bool
]  # seconds since the start, handshake (likewise, 0 never), sent bytes, up

STORIES: dict[str, list[Look]] = {
    "nothing is heard": [(0, 0, 0, False), (500, 0, 148, False)],
    "a first handshake": [(0, 0, 0, False), (1, 1, 148, True)],
    "idle for a day": [(1, 1, 148, True), (86_400, 1, 148, True)],
    "busy, with new handshakes": [(1, 1, 0, True), (121, 121, 999, True), (241, 241, 9999, True)],
    "we send into a session that is too old": [
        (1, 1, 0, True),
        (250, 1, 100, True),
        (255, 1, 200, True),
        (262, 1, 300, False),
    ],
    "one packet after a long rest, and an answer": [
        (1, 1, 0, True),
        (900, 1, 148, True),
        (902, 902, 300, True),
        (930, 902, 400, True),
    ],
    "sending while the session is young": [(1, 1, 0, True), (100, 1, 100, True), (189, 1, 300, True)],
    "back after a loss": [(1, 1, 0, True), (300, 1, 10, True), (320, 1, 20, False), (330, 329, 30, True)],
    "found up when the agent started": [(500, 450, 77, True), (600, 450, 77, True)],
    "found with an old session when the agent started": [(500, 1, 77, False), (501, 501, 225, True)],
}


@pytest.mark.parametrize("story", STORIES)
def test_stories_of_a_tunnel(story: str) -> None:
    live = Liveness()
    for now, handshake, sent, up in STORIES[story]:
        live.observe(START + now, {"a": peer(START + handshake if handshake else 0.0, sent)})
        assert live.up("a") == up, f"{story}, at {now}"


def test_only_changes_are_told() -> None:
    live = Liveness()
    assert not live.observe(START, {"a": peer()})
    assert not live.observe(START + 1, {"a": peer(0.0, 148)})
    assert live.observe(START + 2, {"a": peer(START + 2, 148)})
    assert not live.observe(START + 3, {"a": peer(START + 2, 500)})
    assert live.up_for("a", START + 9) == 7.0
    assert live.observe(START + 4, {})
    assert not live.up("a")
    assert live.up_for("a", START + 9) == 0.0


def test_a_new_handshake_of_a_tunnel_that_is_up_does_not_start_its_time_again() -> None:
    live = Liveness()
    live.observe(START, {"a": peer(START)})
    live.observe(START + 120, {"a": peer(START + 120)})
    assert live.up_for("a", START + 130) == 130.0


def test_unheard_peers_are_woken_again_after_a_while() -> None:
    live = Liveness()
    peers = {"a": peer()}
    live.observe(START, peers)
    woken = [second for second in range(20) if live.to_provoke(START + second, peers)]
    assert woken == [0, RETRY, 2 * RETRY, 3 * RETRY]


def test_a_fresh_tunnel_is_left_alone_and_an_idle_one_is_refreshed() -> None:
    live = Liveness()
    peers = {"a": peer(START)}
    live.observe(START, peers)
    assert live.to_provoke(START + REFRESH - 1, peers) == []
    assert live.to_provoke(START + REFRESH + 1, peers) == ["a"]


def test_a_hundred_peers_are_woken_in_turn() -> None:
    live = Liveness()
    peers = {str(number): peer(key=str(number)) for number in range(100)}
    live.observe(START, peers)
    turns = [live.to_provoke(START + second * 0.1, peers) for second in range(10)]
    assert [len(turn) for turn in turns] == [MAX_PROVOKED] * 10
    assert len({key for turn in turns for key in turn}) == 100, "nobody twice before everybody once"
