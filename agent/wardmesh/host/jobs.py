# SPDX-License-Identifier: Apache-2.0
"""Jobs that other threads hand to the one thread that waits in select."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Jobs:
    """A queue whose descriptor becomes readable. submit and wake may be called from signal handlers, too."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done by who waits."""
        future: Future[T] = Future()
        self._waiting.put((job, future))
        self.wake()
        return future

    def wake(self) -> None:
        """Make the descriptor readable."""
        try:
            os.write(self._write, b"x")
        except BlockingIOError:
            return  # the pipe is full: it wakes anyway

    def fileno(self) -> int:
        """For select."""
        return self._read

    def drain(self) -> None:
        """After the descriptor was readable."""
        os.read(self._read, 4096)

    def run(self) -> None:
        """Do all that waits; what goes wrong is for who asked."""
        while True:
            try:
                job, future = self._waiting.get_nowait()
            except Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001  whoever asked gets it
                future.set_exception(error)

    def cancel(self) -> None:
        """Nobody will do what still waits."""
        while True:
            try:
                self._waiting.get_nowait()[1].cancel()
            except Empty:
                return

    def close(self) -> None:
        """Cancel what waits, and give the descriptors back."""
        self.cancel()
        os.close(self._read)
        os.close(self._write)
