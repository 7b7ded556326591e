# SPDX-License-Identifier: Apache-2.0
"""Pure: who tests whom. Every pair of a small fleet; of a large one a sample in which nobody is left out."""

from __future__ import annotations

from collections.abc import Iterable

from wardmesh.health.schedule import ring

ALL_PAIRS = 30  # members up to which every pair is tested: 870 pairs
PARTNERS = 3  # of each host in larger fleets; it is tested by as many


def targets(names: Iterable[str], own: str) -> list[str]:
    """Whom a host tests, sorted. In a sample each host tests PARTNERS others and is tested by as many."""
    order = ring({*names, own})
    if len(order) <= ALL_PAIRS:
        return sorted(set(order) - {own})
    place = order.index(own)
    distances = [1 + turn * (len(order) - 1) // PARTNERS for turn in range(PARTNERS)]
    return sorted(order[(place + distance) % len(order)] for distance in distances)
