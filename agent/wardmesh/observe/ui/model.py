# SPDX-License-Identifier: Apache-2.0
"""What the page can show: the last flows, the map, the members and how the relay is. Bounded, one lock.

A reader says up to which number it has everything, and gets what came after it: polling loses nothing that is
still kept, and nothing is stored for a reader.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from wardmesh.observe.flow import Flow
from wardmesh.observe.ui.edges import MOST_EDGES, Edges
from wardmesh.observe.ui.rows import End, Row, row_of
from wardmesh.observe.ui.view import View

MOST_ROWS = 10_000
ROWS_TOLD = 500  # in one answer: as many as the table shows
MOST_MEMBERS = 10_000
_MOST_UUIDS = 2 * MOST_ROWS
_LONGEST_NAME = 512
_LONGEST_WORDS = 300
_LONGEST_UUID = 64
CONNECTED, UNAVAILABLE, GONE, ERROR = 1, 2, 3, 4  # relay.NodeState


class FlowModel:
    """server: the relay's address, for people."""

    def __init__(self, server: str, rows: int = MOST_ROWS, edges: int = MOST_EDGES) -> None:
        self.server = server
        self.epoch = secrets.token_hex(8)  # another one after a restart: numbers begin anew
        self._lock = threading.Lock()
        self._number = 0
        self._rows: deque[Row] = deque(maxlen=rows)
        self._edges = Edges(edges)
        self._uuids: dict[str, None] = {}
        self._members: dict[str, str] = {}  # cluster/member to what is wrong, "" where nothing is
        self._members_version = 0
        self._lost = self._unreadable = 0
        self._connected = False
        self._why = "not asked yet"
        self._changed_at = time.time()
        self.latest_ns = 0

    # --- the feed writes ---

    def add(self, flows: Iterable[Flow]) -> None:
        """Flows that were seen; those that are known already count once."""
        with self._lock:
            for flow in flows:
                if flow.uuid and not self._remember(flow.uuid[:_LONGEST_UUID]):
                    continue
                self.latest_ns = max(self.latest_ns, flow.event.time_ns)
                self._number += 1
                row = row_of(flow, self._number)
                self._rows.append(row)
                self._edges.add(row)

    def _remember(self, uuid: str) -> bool:
        """False where it is known."""
        if uuid in self._uuids:
            return False
        if len(self._uuids) >= _MOST_UUIDS:
            del self._uuids[next(iter(self._uuids))]
        self._uuids[uuid] = None
        return True

    def lose(self, number: int) -> None:
        """So many events are missing."""
        with self._lock:
            self._lost += number

    def misread(self) -> None:
        """A flow that makes no sense."""
        with self._lock:
            self._unreadable += 1

    def tell_members(self, names: Iterable[str], state: int, words: str = "") -> None:
        """What the relay says of members; state: relay.NodeState."""
        wrong = {CONNECTED: "", UNAVAILABLE: "unavailable"}.get(state, words[:_LONGEST_WORDS] or "error")
        with self._lock:
            for long_name in names:
                name = long_name[:_LONGEST_NAME]
                if state == GONE:
                    self._members.pop(name, None)
                elif name in self._members or len(self._members) < MOST_MEMBERS:
                    self._members[name] = wrong
            self._members_version += 1

    def connected(self) -> None:
        """The relay answers; it is about to say anew which members there are."""
        self._turn(True, "")
        with self._lock:
            self._members.clear()
            self._members_version += 1

    def disconnected(self, why: str) -> None:
        """It does not; what is known stays on the page."""
        self._turn(False, why[:_LONGEST_WORDS])

    def _turn(self, connected: bool, why: str) -> None:
        with self._lock:
            if connected != self._connected:
                self._changed_at = time.time()
            self._connected, self._why = connected, why

    # --- readers ---

    def status(self) -> dict[str, Any]:
        """How the relay is, and how much is kept."""
        with self._lock:
            return self._status()

    def _status(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "connected": self._connected,
            "why": self._why,
            "since": int(self._changed_at * 1000),
            "flows": self._number,
            "kept": len(self._rows),
            "edges": len(self._edges),
            "forgottenEdges": self._edges.forgotten,
            "lost": self._lost,
            "unreadable": self._unreadable,
            "members": len(self._members),
            "unavailable": sum(1 for wrong in self._members.values() if wrong),
        }

    def updates(self, view: View, epoch: str = "", cursor: int = 0, members: int = -1) -> dict[str, Any]:
        """What came after a cursor; everything where the epoch is another one.

        members: the version of the list of members that the reader has.
        """
        with self._lock:
            fresh = epoch != self.epoch or not 0 <= cursor <= self._number
            if fresh:
                cursor, members = 0, -1
            changed = [(edge, edge.document(view)) for edge in self._edges.since(cursor)]
            ends = {end.name: end for edge, told in changed if told for end in (edge.left, edge.right)}
            made: dict[str, Any] = {
                "epoch": self.epoch,
                "fresh": fresh,
                "cursor": self._number,
                "oldestEdge": self._edges.oldest,
                "edges": [told for _edge, told in changed if told],
                "nodes": [_node(end) for end in ends.values()],
                "membersVersion": self._members_version,
                "status": self._status(),
            }
            if members != self._members_version:
                made["members"] = dict(self._members)
            rows = self._latest(view, cursor)
        made["rows"] = [row.document() for row in rows]
        return made

    def _latest(self, view: View, cursor: int) -> list[Row]:
        """The newest rows after the cursor that the view admits, the oldest of them first."""
        found: list[Row] = []
        for row in reversed(self._rows):
            if row.number <= cursor or len(found) >= ROWS_TOLD:
                break
            if view.admits(row):
                found.append(row)
        found.reverse()
        return found


def _node(end: End) -> dict[str, Any]:
    return {"name": end.name, "labels": list(end.labels)}
