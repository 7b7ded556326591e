# SPDX-License-Identifier: Apache-2.0
"""Loss, latency and jitter of the last probes."""

from __future__ import annotations

import random

import pytest

from wardmesh.health.window import SIZE, Window


def window(*values: float | None, size: int = SIZE) -> Window:
    made = Window(size)
    for value in values:
        made.add(value)
    return made


def test_nothing_is_known_before_the_first_probe() -> None:
    found = window().figures()
    assert (found.sent, found.lost, found.loss, found.last, found.mean, found.jitter) == (
        0,
        0,
        0.0,
        None,
        None,
        None,
    )


def test_figures_of_a_few_probes() -> None:
    found = window(0.010, 0.014, None, 0.011, 0.013).figures()
    assert (found.sent, found.lost) == (5, 1) and found.loss == pytest.approx(0.2)
    assert found.last == pytest.approx(0.013) and found.mean == pytest.approx(0.012)
    assert found.jitter == pytest.approx((0.004 + 0.002) / 2)  # not across the lost one


def test_a_lost_last_probe_has_no_last_round_trip() -> None:
    found = window(0.01, None).figures()
    assert found.last is None and found.mean == pytest.approx(0.01) and found.jitter is None


def test_only_lost_probes() -> None:
    found = window(None, None).figures()
    assert found.loss == 1.0 and found.mean is None and found.jitter is None


def test_old_probes_leave_the_window() -> None:
    found = window(*[None] * 100, *[0.001] * SIZE).figures()
    assert (found.sent, found.lost) == (SIZE, 0) and found.jitter == pytest.approx(0)


def test_against_a_list() -> None:
    chance = random.Random(5)
    made, held = Window(7), []
    for _turn in range(200):
        value = None if chance.random() < 0.3 else chance.random()
        made.add(value)
        held = [*held, value][-7:]
        answered = [item for item in held if item is not None]
        found = made.figures()
        assert (found.sent, found.lost) == (len(held), len(held) - len(answered))
        assert found.mean == (pytest.approx(sum(answered) / len(answered)) if answered else None)


def test_time_that_runs_backwards_is_no_negative_round_trip() -> None:
    assert window(-5.0).figures().mean == 0.0
