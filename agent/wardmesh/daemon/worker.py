# SPDX-License-Identifier: Apache-2.0
"""The one thread that touches the kernel: passes when something changed, when time is up, and on request."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from wardmesh.daemon.engine import Engine
from wardmesh.daemon.log import LOG
from wardmesh.daemon.stages import unexpected
from wardmesh.host.jobs import Jobs
from wardmesh.model.errors import WardmeshError

PERIOD = 3.0  # seconds between passes when nothing happens: what no event told of is repaired then
EAGER = 0.5  # seconds between two looks at the handshakes while they are awaited
DEBOUNCE = 0.1  # seconds from an event to its pass: one change comes as several events
SHARE = 10.0  # under a storm of events, rest so many times as long as a pass takes …
LONGEST_REST = 2.0  # … but no longer (seconds), as repairs must come within 5 s

T = TypeVar("T")


class Watch(Protocol):
    """See wireguard/events.py."""

    def fileno(self) -> int: ...

    def drain(self) -> frozenset[str]: ...


class Worker:
    """Runs the engine. submit and stop may be called from any thread, and from signal handlers."""

    def __init__(self, engine: Engine, watch: Watch, after: Callable[[], Any] = lambda: None) -> None:
        """after: what else is due after each pass."""
        self._engine = engine
        self._after = after
        self._watch = watch
        self._jobs = Jobs()
        self._stopping = threading.Event()
        now = time.monotonic()
        self._pass_at = now + PERIOD
        self._poll_at = now + EAGER
        self._rest_until = now

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done between two passes."""
        return self._jobs.submit(job)

    def stop(self) -> None:
        """End run() after what is being done now."""
        self._stopping.set()
        self._jobs.wake()

    def run(self) -> None:
        """Work until stopped."""
        while not self._stopping.is_set():
            self._wait()
            self._jobs.run()
            now = time.monotonic()
            if now >= self._pass_at:
                self._pass()
            elif now >= self._poll_at and self._engine.eager():
                self._poll_at = now + EAGER
                if self._guarded(self._engine.poll):
                    self._pass()
        self._jobs.cancel()

    def _wait(self) -> None:
        now = time.monotonic()
        due = min(self._pass_at, self._poll_at) if self._engine.eager() else self._pass_at
        sources: list[Any] = [self._watch, self._jobs]
        ready = select.select(sources, [], [], max(0.0, due - now))[0]
        if self._jobs in ready:
            self._jobs.drain()
        if self._watch in ready:
            kinds = self._guarded(self._watch.drain)
            self._engine.note(kinds or ())
            self._pass_at = min(self._pass_at, max(time.monotonic() + DEBOUNCE, self._rest_until))

    def _pass(self) -> None:
        start = time.monotonic()
        self._guarded(self._engine.reconcile)
        self._guarded(self._after)
        end = time.monotonic()
        self._rest_until = end + min(SHARE * (end - start), LONGEST_REST)
        self._pass_at = end + PERIOD
        self._poll_at = end + EAGER

    @staticmethod
    def _guarded(act: Callable[[], T]) -> T | None:
        """The edge: an agent that dies of one bad pass repairs nothing any more."""
        try:
            return act()
        except WardmeshError as error:
            LOG.error("%s", error)
        except Exception as error:  # noqa: BLE001
            LOG.exception("%s", unexpected("a pass", error))
        return None
