# SPDX-License-Identifier: Apache-2.0
"""Checks the peers as the schedule says: three echoes and one HTTP request to each address."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

from wardmesh.health.icmp import Echoes
from wardmesh.health.loop import READ, Loop
from wardmesh.health.record import UNREACHABLE, AddressRecord, Peer, PeerRecord, record_of
from wardmesh.health.schedule import Schedule
from wardmesh.health.web import PORT
from wardmesh.health.webprobe import REFUSED, WebProbe
from wardmesh.model.errors import WardmeshError

LOG = logging.getLogger("wardmesh")
ECHOES = 3  # of one check, so that one lost packet is no unreachable peer
ECHO_SPACING = 0.1
DEADLINE = 3.0  # seconds until a check that is not answered is over
Note = Callable[[bool, str, float], None]  # primary address?, protocol, seconds
Device = Callable[[str], str]


class Pings:
    """The echo sockets of both versions, and who waits for which answer."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[tuple[int, int], tuple[str, Callable[[float], None], float]] = {}
        self._sequence = 0
        self._sockets: dict[int, Echoes] = {}
        self.problems: dict[int, str] = {}
        for version in (4, 6):
            try:
                made = Echoes(version)
            except WardmeshError as error:
                self.problems[version] = str(error)
                continue
            self._sockets[version] = made
            loop.watch(made, READ, partial(self._receive, made))

    def send(self, address: str, answered: Callable[[float], None]) -> tuple[tuple[int, int] | None, str]:
        """One request; its ticket, and what is wrong where it could not be sent."""
        version = 6 if ":" in address else 4
        held = self._sockets.get(version)
        if held is None:
            return None, self.problems[version]
        self._sequence = (self._sequence + 1) & 0xFFFF
        ticket = (version, self._sequence)
        self._waiting[ticket] = (address, answered, self._loop.clock())
        try:
            held.send(address, self._sequence)
        except OSError as error:
            del self._waiting[ticket]
            return None, os.strerror(error.errno or 0).lower()
        return ticket, ""

    def give_up(self, ticket: tuple[int, int] | None) -> None:
        """Nobody waits for it any more."""
        if ticket is not None:
            self._waiting.pop(ticket, None)

    def _receive(self, held: Echoes) -> None:
        now = self._loop.clock()
        for reply in held.receive():
            waiting = self._waiting.get((held.version, reply.sequence))
            if waiting is not None and waiting[0] == reply.address:
                del self._waiting[held.version, reply.sequence]
                waiting[1](now - waiting[2])

    def close(self) -> None:
        """Give the sockets back."""
        for held in self._sockets.values():
            self._loop.forget(held)
            held.close()


class _AddressCheck:
    """Of one check, the part of one address."""

    def __init__(self, check: Check, record: AddressRecord, *, primary: bool) -> None:
        self._check, self.record, self._primary = check, record, primary
        self._echoes: list[float | None] = [None] * ECHOES
        self._tickets: list[tuple[int, int] | None] = [None] * ECHOES
        self._open = ECHOES + 1
        self._refusal = ""
        self.alive = False
        self.web_error = ""
        self._web = WebProbe(check.loop, record.address, self._web_done, check.port)

    def echo(self, place: int) -> None:
        """Send one of the echoes."""
        ticket, problem = self._check.pings.send(self.record.address, partial(self._answered, place))
        self._tickets[place] = ticket
        if problem:
            self._refusal = problem
            self._one_less()

    def _answered(self, place: int, seconds: float) -> None:
        self._echoes[place] = seconds
        self.alive = True
        self._check.note(self._primary, "icmp", seconds)
        self._one_less()

    def _web_done(self, problem: str, seconds: float | None) -> None:
        self.web_error = problem
        self.record.http.take([seconds], problem)
        if seconds is not None:
            self._check.note(self._primary, "http", seconds)
        # A refusal is an answer too: the host is there, and nobody listens.
        self.alive = self.alive or seconds is not None or problem == REFUSED
        self._one_less()

    def _one_less(self) -> None:
        self._open -= 1
        if not self._open:
            self._check.one_less()

    def finish(self) -> None:
        """Time is up, or everything has come: into the record."""
        self._web.abandon()
        for ticket in self._tickets:
            self._check.pings.give_up(ticket)
        silent = all(seconds is None for seconds in self._echoes)
        self.record.icmp.take(self._echoes, (self._refusal or "no answer") if silent else "")


class Check:
    """One check of one peer; calls `done` once with whether its primary address answered anything."""

    def __init__(
        self,
        loop: Loop,
        pings: Pings,
        record: PeerRecord,
        note: Note,
        done: Callable[[bool], None],
        port: int = PORT,
    ) -> None:
        self.loop, self.pings, self.note, self.port = loop, pings, note, port
        self._done: Callable[[bool], None] | None = done
        self._open = len(record.addresses)
        self._parts = [
            _AddressCheck(self, item, primary=not place) for place, item in enumerate(record.addresses)
        ]
        now = loop.clock()
        for place in range(ECHOES):
            loop.at(now + place * ECHO_SPACING, partial(self._echo, place))
        loop.at(now + DEADLINE, self._finish)

    def _echo(self, place: int) -> None:
        if self._done is not None:
            for part in self._parts:
                part.echo(place)

    def one_less(self) -> None:
        """An address has all its answers."""
        self._open -= 1
        if not self._open:
            self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        for part in self._parts:
            part.finish()
        done(self._parts[0].alive)


class Prober:
    """Keeps a record of each peer. device: where the route to an address leads.

    wall: unix seconds, read this once.
    """

    def __init__(
        self, loop: Loop, device: Device, note: Note, interval: float, wall: float, port: int = PORT
    ) -> None:
        self._loop, self._device, self._note, self._port = loop, device, note, port
        self._pings = Pings(loop)
        self._interval = interval
        self._round = int(wall // interval)
        self._start = loop.clock() - wall % interval
        self._epoch = 0  # timers of an older one are void
        self._last = float("-inf")
        self._running: set[str] = set()
        self._suspects: OrderedDict[str, None] = OrderedDict()
        self.records: dict[str, PeerRecord] = {}
        self.schedule = Schedule((), "", interval)

    @property
    def problems(self) -> list[str]:
        """What keeps it from checking; an IP version that no peer has is no problem."""
        used = {6 if ":" in item.address else 4 for held in self.records.values() for item in held.addresses}
        return [text for version, text in self._pings.problems.items() if version in used]

    def set_peers(self, own: str, peers: Iterable[Peer]) -> None:
        """Whom to check from now on; what is known of those that stay the same is kept."""
        now = self._loop.clock()
        old = self.records
        self.records = {}
        for peer in peers:
            known = old.get(peer.name)
            same = known is not None and known.peer == peer
            self.records[peer.name] = known if same and known is not None else record_of(peer, now)
        self.schedule = Schedule(self.records, own, self._interval)
        self._epoch += 1
        self._begin(since=now)

    def _begin(self, since: float = float("-inf")) -> None:
        """Set the timers of the round that is on, from a time on; missed rounds are not made up for."""
        now, plan = self._loop.clock(), self.schedule.plan
        missed = max(0, int((now - self._start) // self._interval))
        self._round, self._start = self._round + missed, self._start + missed * self._interval
        epoch = self._epoch
        for slot in self.schedule.round(self._round):
            if self._start + slot.after >= since:
                self._loop.at(self._start + slot.after, partial(self._due, epoch, slot.peer))
        for turn in range(min(len(self._suspects), plan.partners)):
            name = self._suspects.popitem(last=False)[0]
            self._loop.at(self._start + (turn + 0.5) * plan.spacing, partial(self._due, epoch, name))
        self._loop.at(self._start + self._interval, partial(self._next, epoch))

    def _next(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._begin()

    def _due(self, epoch: int, name: str) -> None:
        """After a pause of this process, what has piled up goes out one by one."""
        record = self.records.get(name)
        if epoch != self._epoch or record is None or name in self._running:
            return
        now = self._loop.clock()
        allowed = self._last + self.schedule.plan.spacing / 2.5
        if now < allowed:
            self._loop.at(allowed, partial(self._due, epoch, name))
            return
        self._last = now
        self._running.add(name)
        record.device = self._device(record.addresses[0].address)
        Check(self._loop, self._pings, record, self._note, partial(self._done, record), self._port)

    def _done(self, record: PeerRecord, alive: bool) -> None:
        name = record.peer.name
        self._running.discard(name)
        if self.records.get(name) is not record:
            return
        if record.take(alive, self._loop.clock()):
            log = LOG.warning if record.state == UNREACHABLE else LOG.info
            log("health: %s is %s", name, record.state)
        # In a large fleet its turn is minutes away: look again soon, until there is a verdict, and no more.
        doubtful = not alive and record.state != UNREACHABLE
        if doubtful and self.schedule.plan.rounds > 1:
            self._suspects[name] = None

    def close(self) -> None:
        """Give the sockets back."""
        self._epoch += 1
        self._pings.close()
