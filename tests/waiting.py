# SPDX-License-Identifier: Apache-2.0
"""Waiting for what happens by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(question: Callable[[], Any], what: str, seconds: float = 60.0, pause: float = 0.05) -> Any:
    """Ask until the answer is true; an AssertionError names what did not happen. seconds: ends what
    would hang, and is no measure; pause: between two questions, longer where they are dear."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds:.0f} s: {what}")
        time.sleep(pause)


def eventually(question: Callable[[], Any], seconds: float = 60.0) -> bool:
    """Ask until the answer is true, or the time is over; for tests that assert either themselves."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
