# SPDX-License-Identifier: Apache-2.0
"""When a tunnel counts as up, when it no longer does, and whom we wake."""

from __future__ import annotations

import pytest

from wardmesh.wireguard.backend import PeerState
from wardmesh.wireguard.liveness import (
    DOWN,
    GRACE,
    PENDING,
    STALE_AFTER,
    UP,
    WAKE_AGAIN,
    WAKE_AT_FIRST,
    WAKES_PER_SECOND,
    Liveness,
)

WALL = 1_000_000.0


def peer(handshake: float = 0.0, tx: int = 0, key: str = "a") -> PeerState:
    return PeerState(key, None, frozenset(), 0, handshake, 0, tx)


Look = tuple[
    float, float, int, str
]  # seconds since the start, handshake (seconds likewise, 0 never), sent bytes

STORIES: dict[str, list[Look]] = {
    "nothing is heard": [(0, 0, 0, PENDING), (500, 0, 148, PENDING)],
    "a first handshake": [(0, 0, 0, PENDING), (1, 1, 148, UP)],
    "idle for a day": [(1, 1, 148, UP), (86_400, 1, 148, UP)],
    "busy, with new handshakes": [
        (1, 1, 0, UP),
        (121, 121, 999, UP),
        (241, 241, 9999, UP),
        (400, 361, 10_000, UP),
    ],
    "we send into a session that is too old": [
        (1, 1, 0, UP),
        (250, 1, 100, UP),
        (250 + GRACE - 1, 1, 200, UP),
        (250 + GRACE + 1, 1, 300, DOWN),
    ],
    "one packet after a long rest, and an answer": [
        (1, 1, 0, UP),
        (900, 1, 148, UP),
        (902, 902, 300, UP),
        (930, 902, 400, UP),
    ],
    "one packet after a long rest, and no answer": [(1, 1, 0, UP), (900, 1, 148, UP), (915, 1, 148, DOWN)],
    "sending while the session is young": [
        (1, 1, 0, UP),
        (100, 1, 100, UP),
        (150, 1, 200, UP),
        (189, 1, 300, UP),
    ],
    "back after a loss": [(1, 1, 0, UP), (300, 1, 10, UP), (320, 1, 20, DOWN), (330, 329, 30, UP)],
    "found up when the agent started": [(500, 450, 77, UP), (600, 450, 77, UP)],
    "found with an old session when the agent started": [
        (500, 1, 77, UP),
        (510, 1, 225, UP),
        (525, 1, 373, DOWN),
    ],
    "the device was made anew": [(1, 1, 100, UP), (50, 0, 0, PENDING), (55, 54, 148, UP)],
}


@pytest.mark.parametrize("story", STORIES)
def test_stories_of_a_tunnel(story: str) -> None:
    live = Liveness()
    for now, handshake, sent, status in STORIES[story]:
        live.observe({"a": peer(WALL + handshake if handshake else 0.0, sent)}, now, WALL + now)
        assert live.status("a") == status, f"{story}, at {now}"


def test_a_step_of_the_wall_clock_takes_nothing_down() -> None:
    live = Liveness()
    live.observe({"a": peer(WALL, 0)}, 1.0, WALL + 1)
    for second in range(2, 100):
        live.observe({"a": peer(WALL, second)}, float(second), WALL + 7200 + second)
        assert live.status("a") == UP


def test_only_changes_of_status_are_told() -> None:
    live = Liveness()
    assert live.observe({"a": peer()}, 0.0, WALL) == ("a",)
    assert live.observe({"a": peer(0.0, 148)}, 1.0, WALL + 1) == ()
    assert live.observe({"a": peer(WALL + 1, 148)}, 2.0, WALL + 2) == ("a",)
    assert live.observe({"a": peer(WALL + 1, 500)}, 3.0, WALL + 3) == ()
    assert live.up_for("a", 9.0) == 7.0
    assert live.observe({}, 4.0, WALL) == ()
    assert live.status("a") == PENDING
    assert live.up_for("a", 9.0) == 0.0


def test_a_new_handshake_of_a_tunnel_that_is_up_does_not_start_its_time_again() -> None:
    live = Liveness()
    live.observe({"a": peer(WALL)}, 0.0, WALL)
    live.observe({"a": peer(WALL + 120)}, 120.0, WALL + 120)
    assert live.up_for("a", 130.0) == 130.0


def test_unheard_peers_are_woken_soon_at_first_and_then_seldom() -> None:
    live = Liveness()
    live.observe({"a": peer()}, 0.0, WALL)
    woken = [now for now in range(200) if live.to_wake(float(now))]
    assert woken[:3] == [0, WAKE_AT_FIRST, 2 * WAKE_AT_FIRST]
    assert woken[-1] - woken[-2] == WAKE_AGAIN
    assert len(woken) < 20


def test_tunnels_that_are_up_are_left_alone() -> None:
    live = Liveness()
    live.observe({"a": peer(WALL)}, 0.0, WALL)
    live.observe({"a": peer(WALL)}, 2 * STALE_AFTER, WALL + 2 * STALE_AFTER)
    assert live.to_wake(2 * STALE_AFTER) == []


def test_an_old_session_found_at_the_start_is_asked_once() -> None:
    live = Liveness()
    live.observe({"a": peer(WALL)}, 5000.0, WALL + 1000)
    assert live.to_wake(5000.0) == ["a"]
    assert live.to_wake(5100.0) == []


def test_a_thousand_peers_are_woken_at_the_agreed_rate_and_all_of_them() -> None:
    live = Liveness()
    live.observe({str(n): peer(key=str(n)) for n in range(1000)}, 0.0, WALL)
    seen: set[str] = set()
    tick, now = 0.5, 0.0
    while now < 30.0:
        chosen = live.to_wake(now)
        assert len(chosen) <= WAKES_PER_SECOND
        seen.update(chosen)
        now += tick
    assert WAKES_PER_SECOND * 29 <= len(seen) <= WAKES_PER_SECOND * 31, "nobody twice before everybody once"


def test_candidates_narrow_whom_to_wake() -> None:
    live = Liveness()
    live.observe({key: peer(key=key) for key in "abc"}, 0.0, WALL)
    assert live.to_wake(0.0, ["b", "unknown"]) == ["b"]
