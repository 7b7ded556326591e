# SPDX-License-Identifier: Apache-2.0
"""Flows from the relay into the model, for ever: a relay that goes away is asked again until it is back."""

from __future__ import annotations

import logging
import threading
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.client import Access, ObserverClient
from wardmesh.observe.convert import flow_of, set_time
from wardmesh.observe.proto import message
from wardmesh.observe.ui.model import FlowModel

LOG = logging.getLogger("wardmesh")
FIRST = 2000  # flows of the past that a new page begins with
_OVERLAP_NS = 5_000_000_000  # asked again after a break: members tell late; what is known counts once
_SHORTEST, _LONGEST = 0.5, 10.0  # seconds between two tries
LOOK = 15.0  # seconds between two questions whether a silent relay is there


class Feed:
    """Two threads: one reads the stream, one asks from time to time whether the server is still there."""

    def __init__(self, access: Access, model: FlowModel) -> None:
        self._access = access
        self._model = model
        self._stop = threading.Event()
        self._client: ObserverClient | None = None
        self._threads = [
            threading.Thread(target=job, daemon=True, name=f"ui-{job.__name__}")
            for job in (self._read, self._watch)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End; the stream is cut."""
        self._stop.set()
        self._cut()
        for thread in self._threads:
            thread.join(10)

    def _cut(self) -> None:
        client = self._client
        if client is not None:
            client.close()

    def _read(self) -> None:
        pause, told = _SHORTEST, ""
        while not self._stop.is_set():
            before = self._model.latest_ns
            try:
                self._follow()
                why = "the relay ended the stream"
            except (WardmeshError, ValueError) as error:  # ValueError: cut while a call was being made
                why = str(error)
            if self._stop.is_set():
                return
            self._model.disconnected(why)
            if why != told:
                LOG.warning("ui: %s", why)
            told = why
            pause = _SHORTEST if self._model.latest_ns != before else min(2 * pause, _LONGEST)
            self._stop.wait(pause)

    def _follow(self) -> None:
        with ObserverClient(self._access) as client:
            client.ask("ServerStatus")  # a quiet relay sends nothing: this says that it is there
            self._model.connected()
            self._client = client  # from now on another thread may cut it; a dial ends by itself
            try:
                answers = iter(()) if self._stop.is_set() else client.flows(self._request())
                for answer in answers:
                    if self._stop.is_set():
                        return
                    self._take(answer)
            finally:
                self._client = None

    def _request(self) -> Any:
        made = message("observer.GetFlowsRequest")()
        made.follow = True
        if self._model.latest_ns:
            set_time(made.since, max(0, self._model.latest_ns - _OVERLAP_NS))
        else:
            made.number = FIRST
        return made

    def _take(self, answer: Any) -> None:
        kind = answer.WhichOneof("response_types")
        if kind == "flow":
            try:
                self._model.add((flow_of(answer.flow),))
            except WardmeshError:
                self._model.misread()
        elif kind == "lost_events":
            self._model.lose(answer.lost_events.num_events_lost)
        elif kind == "node_status":
            status = answer.node_status
            self._model.tell_members(status.node_names, status.state_change, status.message)

    def _watch(self) -> None:
        """A relay whose host is gone without a word leaves its stream open for hours."""
        while not self._stop.wait(LOOK):
            client = self._client
            if client is None:
                continue
            try:
                client.ask("ServerStatus")
            except (WardmeshError, ValueError):
                client.close()
