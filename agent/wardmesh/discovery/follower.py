# SPDX-License-Identifier: Apache-2.0
"""Follows a store for as long as it is told to: this host's record in, the others' records out.

It never gives up and never lets go of what it knows: without a store the roll stays as it is. Servers are
tried in a random order, one after another at once, and after a round without success with growing pauses.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wardmesh.discovery.backend import Backend, Change, Entry
from wardmesh.discovery.keys import node_key, nodes_prefix, state_key
from wardmesh.discovery.members import node_of
from wardmesh.discovery.records import read_node, write_node
from wardmesh.discovery.roll import Roll
from wardmesh.discovery.settings import Server, Settings
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member

STEP = 0.25  # seconds between two looks at the clock, the labels and the changes
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two rounds through the servers
RENEWALS = 3  # of a lease in its time
SHOW = 10.0  # seconds between two writes of what this host shows of itself
AGAIN = 5.0  # seconds until this host's record is tried again where the store did not take it
_LONGEST_STEP = 5.0  # seconds that one tick may count: a host that slept was not connected
_SHARE, _LONGEST_REST = 4.0, 1.0  # under a storm of changes, rest so many times as long as telling takes
_MOST_SKIPPED = 20  # records named in the state
Connect = Callable[[Server, int], Backend]


def rounds(stop: threading.Event, servers: Sequence[Server], serve: Callable[[Server], bool]) -> None:
    """Stay with one server after another until stop is set. serve: until it fails; was it of use?"""
    pause = FIRST_PAUSE
    while not stop.is_set():
        for server in random.sample(list(servers), len(servers)):
            if stop.is_set():
                return
            if serve(server):
                pause = FIRST_PAUSE
                break  # it did work: the next round may begin at once, after a short pause
        stop.wait(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, LONGEST_PAUSE)


@dataclass
class State:
    """What there is to say about the connection. problem, registration, publication, showing: "" is
    fine."""

    connected: bool = False
    server: str = ""
    registered: bool = False
    problem: str = "not connected yet"
    registration: str = ""
    publishing: bool = False
    publication: str = ""
    showing: str = ""

    def document(self, roll: Roll) -> dict[str, Any]:
        """For status and logs."""
        named = sorted(roll.skipped.items())[:_MOST_SKIPPED]
        return {
            "connected": self.connected,
            "server": self.server,
            "registered": self.registered,
            "problem": self.problem,
            "registration": self.registration,
            "publishing": self.publishing,
            "publication": self.publication,
            "showing": self.showing,
            "records": len(roll.claims),
            "departed": sorted(roll.departed)[:_MOST_SKIPPED],
            "skipped": len(roll.skipped),
            "skippedRecords": [{"key": key[:300], "why": why[:300]} for key, why in named],
        }


@dataclass
class Follower:
    """One host's part in the store. labels: read anew at every step; told: after every change, True where
    the roll is another one. publish: what else this host writes; True where it is the one that does. former:
    keys that this host had before. shown: what it shows of itself, under its lease, b"" for nothing."""

    settings: Settings
    own: Member
    roll: Roll
    connect: Connect
    labels: Callable[[], Mapping[str, str]]
    told: Callable[[bool], None]
    publish: Callable[[Backend], bool] | None = None
    former: tuple[str, ...] = ()
    shown: Callable[[], bytes] | None = None
    state: State = field(default_factory=State)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lease: int = 0
    _written: bytes = b""
    _renew_at: float = 0.0
    _try_at: float = 0.0
    _tell_at: float = 0.0
    _publish_at: float = 0.0
    _show_at: float = 0.0
    _visible: tuple[int, bytes] = (0, b"")  # the lease, and what was written under it
    _said: dict[str, Any] = field(default_factory=dict)

    def stop(self) -> None:
        """From any thread: run returns soon."""
        self._stop.set()

    def run(self) -> None:
        """Until stop is called."""
        rounds(self._stop, self.settings.servers, self._serve)

    def _serve(self, server: Server) -> bool:
        """Stay with one server until it fails; was it of use?"""
        backend: Backend | None = None
        useful = False
        try:
            backend = self.connect(server, self._lease)
            self.roll.snapshot(backend.snapshot(nodes_prefix(self.roll.cluster.name)))
            useful = True
            self.state.connected, self.state.server, self.state.problem = True, server.target, ""
            self._written, self._renew_at, self._try_at = b"", 0.0, 0.0
            self._visible = (0, b"")
            self._follow(backend)
        except WardmeshError as error:
            self.state.connected, self.state.registered = False, False
            self.state.problem = str(error)
            self._tell()
        finally:
            if backend is not None:
                backend.close()
        return useful

    def _follow(self, backend: Backend) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            self._register(backend)
            self._publish(backend)
            self._show(backend)
            self._tell()
            for change in backend.changes(STEP):
                self._take(change)
            now = time.monotonic()
            self.roll.tick(min(now - last, _LONGEST_STEP))
            last = now

    def _take(self, change: Change) -> None:
        if change.key == self._own_key and (change.entry is None or change.entry.value != self._written):
            self._written = b""  # somebody deleted or replaced it: look at it again
        if change.entry is None:
            self.roll.gone(change.key)
        else:
            self.roll.put(change.entry)

    @property
    def _own_key(self) -> str:
        return node_key(self.roll.cluster.name, self.own.name)

    def _register(self, backend: Backend) -> None:
        """Keep this host's record in the store, as it is to be."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + self.settings.lease / RENEWALS
            if self._lease and not backend.renew():
                self._lease, self._written = 0, b""
            elif not self._lease:
                backend.get(self._own_key)  # a server that lost its majority must not look well
        value = write_node(node_of(self.own, self.roll.cluster, self.labels(), self.former))
        if value == self._written or now < self._try_at:
            return
        try:
            self._check_free(backend.get(self._own_key))
            self._lease = backend.put(self._own_key, value)
        except WardmeshError as error:
            self.state.registered, self.state.registration = False, str(error)
            self._try_at, self._renew_at = now + AGAIN, 0.0  # it may be the lease that is gone
            return
        self._written = value
        self.state.registered, self.state.registration = True, ""

    def _publish(self, backend: Backend) -> None:
        now = time.monotonic()
        if self.publish is None or not self.state.registered or now < self._publish_at:
            return
        try:
            self.state.publishing, self.state.publication = self.publish(backend), ""
        except WardmeshError as error:
            self.state.publishing, self.state.publication = False, str(error)
            self._publish_at = now + AGAIN

    def _show(self, backend: Backend) -> None:
        """Bounded in time: many changes are one write."""
        now = time.monotonic()
        if self.shown is None or not self.state.registered or now < self._show_at:
            return
        value = self.shown()
        if not value or (self._lease, value) == self._visible:
            return
        self._show_at = now + SHOW
        try:
            backend.put(state_key(self.roll.cluster.name, self.own.name), value)
            self._visible, self.state.showing = (self._lease, value), ""
        except WardmeshError as error:  # without the right to: the members are followed all the same
            self.state.showing = str(error)

    def _check_free(self, entry: Entry | None) -> None:
        """Another host with this name would be overwritten, and would write over us."""
        if entry is None or entry.lease == 0 or entry.lease == self._lease:
            return
        try:
            holder = read_node(entry.key, entry.value).public_key
        except WardmeshError:
            return
        if holder != self.own.key and holder not in self.former:
            raise WardmeshError(
                "another host is registered under this host's name",
                where=entry.key,
                why=f"its key is {holder[:10]}…",
                remedy="give one of the two another name; a former key of this host ends with its lease",
            )

    def _tell(self) -> None:
        begun = time.monotonic()
        changed = self.roll.changed and begun >= self._tell_at
        said = self.state.document(self.roll)
        if not changed and said == self._said:
            return
        self._said = said
        if changed:
            self.roll.changed = False
        self.told(changed)
        if changed:
            end = time.monotonic()
            self._tell_at = end + min(_SHARE * (end - begun), _LONGEST_REST)
