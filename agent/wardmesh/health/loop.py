# SPDX-License-Identifier: Apache-2.0
"""One thread that waits for sockets and times. Times are seconds of the monotonic clock."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar, Union

from wardmesh.host.jobs import Jobs

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_LONGEST = 1.0  # seconds of one wait
T = TypeVar("T")


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


Watched = Union[int, socket.socket, _HasDescriptor]


class Loop:
    """Runs what is due. ask and stop may be called from other threads and signal handlers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stopping = threading.Event()
        self._jobs = Jobs()
        self.watch(self._jobs, READ, self._answer)

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Act at a time."""
        heapq.heappush(self._timers, (when, next(self._order), act))

    def watch(self, what: Watched, events: int, act: Callable[[], None]) -> None:
        """Act whenever the socket is ready; again for other events."""
        try:
            self._selector.modify(what, events, act)
        except KeyError:
            self._selector.register(what, events, act)

    def forget(self, what: Watched) -> None:
        """Watch it no more."""
        try:
            self._selector.unregister(what)
        except KeyError:
            return

    def ask(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done in the loop's thread."""
        return self._jobs.submit(job)

    def stop(self) -> None:
        """run returns."""
        self._stopping.set()
        self._jobs.wake()

    def run(self) -> None:
        """Until stopped."""
        while not self._stopping.is_set():
            self.once()

    def once(self, longest: float = _LONGEST) -> None:
        """One wait, and what is due after it."""
        wait = longest
        if self._timers:
            wait = min(longest, max(0.0, self._timers[0][0] - self.clock()))
        for key, _events in self._selector.select(wait):
            key.data()
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _answer(self) -> None:
        self._jobs.drain()
        self._jobs.run()

    def close(self) -> None:
        """Give the descriptors back."""
        self._selector.close()
        self._jobs.close()
