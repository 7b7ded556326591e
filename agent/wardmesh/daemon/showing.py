# SPDX-License-Identifier: Apache-2.0
"""Looks now and then at what this host enforces and whom it reaches, to be shown in the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from wardmesh.api import client
from wardmesh.daemon.log import LOG
from wardmesh.health.drift import Report, document
from wardmesh.health.showing import Shown, health_document
from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

PERIOD = 15.0  # seconds between two looks …
SHARE = (
    100.0  # … and at least so many times as long as one takes: among thousands of members that is a second
)
ASK = 5.0  # seconds for wardmesh-health


class Showing:
    """A thread of its own. wanted: is there a store to show it in?"""

    def __init__(self, paths: Paths, wanted: Callable[[], bool], look: Callable[[], Report]) -> None:
        self._paths, self._wanted, self._look = paths, wanted, look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="showing", daemon=True)
        self._shown = Shown()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End soon; a look that waits for the worker is left behind."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                self.step()
            except (WardmeshError, OSError, CancelledError) as error:
                LOG.error("showing: %s", error or type(error).__name__)
            self._stop.wait(max(PERIOD, SHARE * (time.monotonic() - begun)))

    def step(self) -> None:
        """One look; the file is written where it says something else."""
        if not self._wanted():
            return
        report = document(self._look())
        data = self._shown.of(report, health_document(self._health()), time.monotonic())
        if read_bytes(self._paths.shown) != data:
            write_atomic(self._paths.shown, data, 0o600)

    def _health(self) -> dict[str, Any] | None:
        try:
            return client.call(self._paths.health, "GET", "/v1/health", timeout=ASK)
        except WardmeshError:  # switched off, or just starting
            return None
