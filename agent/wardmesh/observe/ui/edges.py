# SPDX-License-Identifier: Apache-2.0
"""Flows added up for the service map: pairs of ends, their ports, and what became of the flows.

Counts are kept apart by outcome and tunnel, so that an edge can be shown as a filter wants it long after the
flows are gone. Bounded: of too many pairs the one that was silent longest goes, of too many ports of a pair
the later ones are added up as "other".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from wardmesh.observe.ui.rows import AUDITED, DROPPED, OUTCOMES, End, Row
from wardmesh.observe.ui.view import View

MOST_EDGES = 10_000
MOST_PORTS = 32  # of one pair; a scan of ports is one pair with many
PORTS_TOLD = 8
OTHER = "other"
_PLACE = {outcome: 2 * place for place, outcome in enumerate(OUTCOMES)}


class Tally:
    """Flows of one port. counts: by outcome, through the tunnel and outside it in turn."""

    __slots__ = ("bytes", "counts")

    def __init__(self) -> None:
        self.counts = [0] * (2 * len(OUTCOMES))
        self.bytes = 0

    def add(self, row: Row) -> None:
        """One flow more."""
        self.counts[_PLACE[row.outcome] + (not row.encrypted)] += 1
        self.bytes += row.bytes

    def seen(self, view: View) -> dict[str, int] | None:
        """Counts of what the view wants; None where that is nothing."""
        made = dict.fromkeys(OUTCOMES, 0)
        plain = 0
        for outcome in view.outcomes:
            for encrypted in view.tunnel:
                count = self.counts[_PLACE[outcome] + (not encrypted)]
                made[outcome] += count
                plain += 0 if encrypted or outcome == DROPPED else count
        if not any(made.values()):
            return None
        return {**made, "plain": plain, "bytes": self.bytes}


class Edge:
    """One pair. changed: the number of its latest flow."""

    __slots__ = ("changed", "left", "ports", "right")

    def __init__(self, left: End, right: End) -> None:
        self.left, self.right = left, right
        self.ports: dict[str, Tally] = {}
        self.changed = 0

    def add(self, row: Row) -> None:
        """One flow more."""
        self.left, self.right, self.changed = row.left, row.right, row.number
        port = row.port if row.port in self.ports or len(self.ports) < MOST_PORTS else OTHER
        self.ports.setdefault(port, Tally()).add(row)

    def document(self, view: View) -> dict[str, Any] | None:
        """For JSON, as far as the view wants it; None where it wants nothing of it."""
        if not view.joins(self.left, self.right):
            return None
        ports: list[dict[str, Any]] = []
        for port, tally in self.ports.items():
            seen = tally.seen(view) if not view.port or view.port == port else None
            if seen is not None:
                ports.append({"port": port, **seen})
        if not ports:
            return None
        total: dict[str, int] = {name: sum(item[name] for item in ports) for name in _SUMMED}
        ports.sort(key=lambda item: -sum(item[outcome] for outcome in OUTCOMES))
        return {
            "from": self.left.name,
            "to": self.right.name,
            "changed": self.changed,
            "kind": kind_of(total),
            **total,
            "ports": ports[:PORTS_TOLD],
            "morePorts": max(0, len(ports) - PORTS_TOLD),
        }


_SUMMED = (*OUTCOMES, "plain", "bytes")


def kind_of(total: dict[str, int]) -> str:
    """How an edge is drawn: the worst that happened on it."""
    if total[DROPPED]:
        return DROPPED
    if total[AUDITED]:
        return AUDITED
    return "plain" if total["plain"] else "encrypted"


class Edges:
    """Every pair, the one that was heard of last at the end."""

    def __init__(self, most: int = MOST_EDGES) -> None:
        self._most = most
        self._edges: OrderedDict[tuple[str, str], Edge] = OrderedDict()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._edges)

    def add(self, row: Row) -> None:
        """One flow more."""
        key = (row.left.name, row.right.name)
        edge = self._edges.get(key)
        if edge is None:
            edge = self._edges[key] = Edge(row.left, row.right)
            if len(self._edges) > self._most:
                self._edges.popitem(last=False)
                self.forgotten += 1
        else:
            self._edges.move_to_end(key)
        edge.add(row)

    @property
    def oldest(self) -> int:
        """The number since which every edge is kept that changed: older ones are gone from the map."""
        return next((edge.changed for edge in self._edges.values()), 0)

    def since(self, number: int) -> Iterator[Edge]:
        """Those that changed after it, the latest first."""
        for edge in reversed(self._edges.values()):
            if edge.changed <= number:
                return
            yield edge
