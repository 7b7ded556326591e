# SPDX-License-Identifier: Apache-2.0
"""Flows of an exported file as a source: to look at another host's flows with every client, days later."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.convert import flow_of
from wardmesh.observe.flow import EventList, Events, FlowEvent
from wardmesh.observe.jsonform import LONGEST_LINE, from_json

_BATCH = 1024


class Replay:
    """Reads the file once, from its beginning to its end; what is no flow is left out."""

    def __init__(self, path: Path) -> None:
        try:
            self._stream = path.open(encoding="utf-8", errors="replace")
        except OSError as error:
            raise WardmeshError(
                "cannot read flows",
                where=str(path),
                why=error.strerror or str(error),
                remedy="name a file of flows",
            ) from error
        self._path = path
        self._number = 0
        self._closed = threading.Event()

    def poll(self, timeout: float) -> Sequence[Events]:
        """The next flows of the file; at its end, nothing after the time is up."""
        found: list[FlowEvent] = []
        while len(found) < _BATCH and not self._closed.is_set():
            line = self._stream.readline(LONGEST_LINE)
            if not line:
                break
            self._number += 1
            if line.strip():
                answer = from_json(line, "observer.GetFlowsResponse", f"{self._path}:{self._number}")
                if answer.HasField("flow"):
                    found.append(flow_of(answer.flow).event)
        if not found:
            self._closed.wait(timeout)
        return [EventList(found)] if found else []

    def lost(self) -> int:
        """A file loses nothing."""
        return 0

    def close(self) -> None:
        """Let go of the file."""
        self._closed.set()
        self._stream.close()
