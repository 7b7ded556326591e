# SPDX-License-Identifier: Apache-2.0
"""One HTTP check: connect, ask, read the first line of the answer."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from wardmesh.health.loop import READ, WRITE, Loop
from wardmesh.health.web import PORT, REQUEST, judge

REFUSED = "connection refused"
Done = Callable[[str, "float | None"], None]  # "" or what is wrong, and the seconds that it took


class WebProbe:
    """Calls `done` once; `abandon` ends it before."""

    def __init__(self, loop: Loop, address: str, done: Done, port: int = PORT) -> None:
        self._loop = loop
        self._done: Done | None = done
        self._start = loop.clock()
        self._data = b""
        self._link: socket.socket | None = None
        code = self._connect(address, port)
        if code not in (0, errno.EINPROGRESS):
            # Not from here: whoever made us would be told before he knows us.
            loop.at(self._start, lambda: self._end(_words(code)))

    def _connect(self, address: str, port: int) -> int:
        """Begin to connect; the kernel's number for what is wrong, or 0."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._link = socket.socket(family, kind)
            code = self._link.connect_ex((address, port))
        except OSError as error:  # no such family here, or no descriptor left
            return error.errno or errno.EIO
        if code in (0, errno.EINPROGRESS):
            self._loop.watch(self._link, WRITE, self._connected)
        return code

    def _connected(self) -> None:
        if self._link is None:
            return
        code = self._link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._end(_words(code))
            return
        try:
            self._link.send(REQUEST)
        except OSError as error:
            self._end(_words(error.errno or 0))
            return
        self._loop.watch(self._link, READ, self._answered)

    def _answered(self) -> None:
        if self._link is None:
            return
        try:
            part = self._link.recv(1024)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_words(error.errno or 0))
            return
        self._data += part
        said = judge(self._data)
        if said is None and not part:
            said = "closed without an answer (does it know this host?)"
        if said is not None:
            self._end(said)

    def _end(self, problem: str) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        if self._link is not None:
            self._loop.forget(self._link)
            self._link.close()
            self._link = None
        done(problem, None if problem else self._loop.clock() - self._start)

    def abandon(self) -> None:
        """Time is up."""
        self._end("no answer")


def _words(code: int) -> str:
    return REFUSED if code == errno.ECONNREFUSED else os.strerror(code).lower()
