# SPDX-License-Identifier: Apache-2.0
"""GetFlows: which entries of the ring a request is answered with, and in which form.

Without more, the last `number` flows that the filters keep, 0 being all of them; `first` counts from the
oldest; `follow` goes on with what comes, and with number 0 and no `since` begins there. Lost events are
always told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.convert import FieldMask, flow_message, lost_message, set_time, time_of
from wardmesh.observe.filters import compile_filters
from wardmesh.observe.flow import Flow, Lost
from wardmesh.observe.matchers import Test, everything
from wardmesh.observe.proto import message
from wardmesh.observe.ring import Ring
from wardmesh.observe.stretch import Entry

ALL = 2**64 - 1  # what clients send for --all
_PATIENCE = 1.0  # seconds after which a reader that follows looks whether its client is there
_REMEMBERED = 2048  # encoded flows that readers share
_LATE_NS = 1_000_000_000  # so long after `until` the last events are waited for


class Query:
    """A checked GetFlowsRequest; WardmeshError says what is wrong with it."""

    def __init__(self, request: Any) -> None:
        self.number = 0 if request.number >= ALL else int(request.number)
        self.everything = request.number >= ALL
        self.first, self.follow = bool(request.first), bool(request.follow)
        if self.first and self.follow:
            raise WardmeshError("first and follow exclude each other", remedy="leave one of them out")
        self.since = time_of(request.since) if request.HasField("since") else 0
        self.until = time_of(request.until) if request.HasField("until") else 0
        self.keep: Test = compile_filters(request.whitelist, request.blacklist)
        self.mask = FieldMask(request.field_mask)
        self.masked = bool(request.field_mask.paths)

    def start(self, ring: Ring) -> int:
        """The cursor to begin with."""
        if self.first:
            return ring.oldest
        if self.follow and not self.number and not self.since and not self.everything:
            return ring.end
        keep = None if self.keep is everything else self.keep
        return ring.start_of_last(self.number, keep, self.since, self.until)

    def wants(self, entry: Entry) -> bool:
        """Is it within the times and kept by the filters?"""
        if isinstance(entry, Lost):
            return True
        stamp = entry.event.time_ns
        if stamp < self.since or (self.until and stamp > self.until):
            return False
        return self.keep(entry)


class Encoder:
    """Entries as serialized GetFlowsResponse; flows that many readers follow are encoded once."""

    def __init__(self, node_name: Callable[[], str]) -> None:
        self._node_name = node_name
        self._known: dict[str, bytes] = {}

    def response(self, entry: Entry, query: Query) -> bytes:
        """The bytes of one answer."""
        if isinstance(entry, Flow) and not query.masked:
            data = self._known.get(entry.uuid)
            if data is None:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                data = self._known[entry.uuid] = bytes(self.message(entry, None).SerializeToString())
            return data
        return bytes(self.message(entry, query.mask).SerializeToString())

    def message(self, entry: Entry, mask: FieldMask | None) -> Any:
        """The GetFlowsResponse itself."""
        made = message("observer.GetFlowsResponse")()
        if isinstance(entry, Lost):
            made.lost_events.CopyFrom(lost_message(entry))
            made.node_name = self._node_name()
            set_time(made.time, entry.last_ns or time.time_ns())
            return made
        if mask is None:
            flow_message(entry, made.flow)
        else:
            made.flow.CopyFrom(mask.apply(flow_message(entry)))
        made.node_name = entry.node_name
        set_time(made.time, entry.event.time_ns)
        return made


def select(ring: Ring, query: Query, active: Callable[[], bool]) -> Iterator[Entry]:
    """The entries that answer a query, until it is answered or nobody listens any more."""
    cursor = query.start(ring)
    stop = None if query.follow else ring.end
    left = query.number if query.number and not query.follow else -1
    while active():
        entries, cursor = ring.take(cursor, stop)
        for entry in entries:
            if query.wants(entry):
                yield entry
                left -= isinstance(entry, Flow)
                if left == 0:
                    return
        if entries:
            continue
        if not query.follow or (query.until and time.time_ns() > query.until + _LATE_NS):
            return
        if not ring.wait(cursor, _PATIENCE):
            return
