# SPDX-License-Identifier: Apache-2.0
"""Measuring the way to an address, over loopback."""

from __future__ import annotations

import socket

import pytest

from wardmesh.health import reach
from wardmesh.health.reach import OPEN, REFUSED, SILENT, Pinged, connect, passed, spread


def test_tcp_that_is_open_and_refused_has_passed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
        assert connect("127.0.0.1", port)[0] == OPEN
    assert connect("127.0.0.1", port)[0] == REFUSED
    assert passed(OPEN) and passed(REFUSED)
    assert not passed(SILENT) and not passed("no route to host")


@pytest.mark.parametrize("limit", [576, 577, 1000, 1337, 1419, 1420])
def test_the_search_finds_the_largest_that_fits(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    asked: list[int] = []

    def fits(_address: str, size: int) -> bool:
        asked.append(size)
        return size <= limit

    monkeypatch.setattr(reach, "_fits", fits)
    assert reach.path_mtu("10.0.0.2", 1420) == limit
    assert len(asked) <= 13


def test_where_not_even_the_least_fits_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_fits", lambda _address, _size: False)
    assert reach.path_mtu("fd00::2", 1420) == 0


def test_figures_of_a_ping() -> None:
    found = Pinged((0.1, None, 0.3, 0.2), 84)
    assert found.answered == (0.1, 0.3, 0.2) and found.loss == 0.25
    assert spread(found.answered) == (0.1, pytest.approx(0.2), 0.3)
    assert spread(()) is None and Pinged((), 84).loss == 1.0
