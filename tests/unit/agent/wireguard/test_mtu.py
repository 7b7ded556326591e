# SPDX-License-Identifier: Apache-2.0
"""The tunnel's MTU in a table."""

from __future__ import annotations

import pytest

from wardmesh.wireguard.mtu import interface_mtu, route_mtu


@pytest.mark.parametrize(
    ("paths", "configured", "interface"),
    [
        ([], None, 1420),
        ([1500], None, 1420),
        ([1500, 9000], None, 8920),
        ([1450, 1450], None, 1370),
        ([1300], None, 1280),
        ([1500], 1380, 1380),
    ],
)
def test_interface(paths: list[int], configured: int | None, interface: int) -> None:
    assert interface_mtu(paths, configured) == interface


@pytest.mark.parametrize(
    ("path", "interface", "route"),
    [
        (1500, 1420, 0),
        (1500, 8920, 1420),
        (9000, 8920, 0),
        (9000, 1380, 0),
        (1400, 1420, 1320),
        (1281, 1420, 1280),
    ],
)
def test_route(path: int, interface: int, route: int) -> None:
    assert route_mtu(path, interface) == route
