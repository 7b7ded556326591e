# SPDX-License-Identifier: Apache-2.0
"""The one thread that touches the kernel: passes when something changed, when time is up, and on request."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from wardmesh.daemon.engine import Engine
from wardmesh.daemon.log import LOG
from wardmesh.daemon.stages import unexpected
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

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine = engine
        self._watch = watch
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        now = time.monotonic()
        self._pass_at = now + PERIOD
        self._poll_at = now + EAGER
        self._rest_until = now

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done between two passes."""
        future: Future[T] = Future()
        self._jobs.put((job, future))
        self._wake()
        return future

    def stop(self) -> None:
        """End run() after what is being done now."""
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return  # the pipe is full: it wakes anyway

    def run(self) -> None:
        """Work until stopped."""
        while not self._stopping.is_set():
            self._wait()
            self._do_jobs()
            now = time.monotonic()
            if now >= self._pass_at:
                self._pass()
            elif now >= self._poll_at and self._engine.eager():
                self._poll_at = now + EAGER
                if self._guarded(self._engine.poll):
                    self._pass()
        self._cancel_jobs()

    def _wait(self) -> None:
        now = time.monotonic()
        due = min(self._pass_at, self._poll_at) if self._engine.eager() else self._pass_at
        sources: list[Any] = [self._watch, self._wake_read]
        ready = select.select(sources, [], [], max(0.0, due - now))[0]
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if self._watch in ready:
            kinds = self._guarded(self._watch.drain)
            self._engine.note(kinds or ())
            self._pass_at = min(self._pass_at, max(time.monotonic() + DEBOUNCE, self._rest_until))

    def _pass(self) -> None:
        start = time.monotonic()
        self._guarded(self._engine.reconcile)
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

    def _do_jobs(self) -> None:
        while True:
            try:
                job, future = self._jobs.get_nowait()
            except Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001  whoever asked gets it
                future.set_exception(error)

    def _cancel_jobs(self) -> None:
        while not self._jobs.empty():
            self._jobs.get_nowait()[1].cancel()
