# SPDX-License-Identifier: Apache-2.0
"""Network namespaces without names or mounts: the calling thread moves, a descriptor keeps them alive."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Namespace:
    """A network namespace of our own; it goes when it is closed and nobody is in it."""

    def __init__(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            _check(_libc.setns(home, _CLONE_NEWNET))
        finally:
            os.close(home)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread works inside; sockets made there stay there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _check(_libc.setns(self.fd, _CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET))
            os.close(home)

    def close(self) -> None:
        """Let it go."""
        os.close(self.fd)


def set_sysctl(name: str, value: object) -> None:
    """Write net.<name> of the namespace that the calling thread is in."""
    Path("/proc/sys/net", *name.split(".")).write_text(str(value), encoding="ascii")


def _command(program: str, words: str) -> str:
    done = subprocess.run([program, *words.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} {words}: {done.stderr.strip()}")
    return done.stdout


def ip(words: str) -> str:
    """Run ip(8) in the namespace that the calling thread is in."""
    return _command("ip", words)


def tc(words: str) -> str:
    """Run tc(8) in the namespace that the calling thread is in."""
    return _command("tc", words)
