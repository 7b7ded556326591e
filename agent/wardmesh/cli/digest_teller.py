# SPDX-License-Identifier: Apache-2.0
"""What wardmesh-health tells members of this host's digest: the agent's answer, asked for beside the loop."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

from wardmesh.api import client
from wardmesh.health.loop import Loop
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

FRESH = 2.0  # seconds that an answer serves everybody who asks: a thousand members are one look
SHARE = 20.0  # … and at least so many times as long as it took, for whoever asks all the time
ASK = 4.0  # seconds that the agent has
Told = Callable[[bytes], None]


class Teller:
    """Belongs to the loop's thread."""

    def __init__(self, loop: Loop, paths: Paths) -> None:
        self._loop, self._paths = loop, paths
        self._waiting: list[Told] = []
        self._body, self._until = b"", 0.0

    def tell(self, told: Told) -> None:
        """Call told with the digest, at once where it is fresh."""
        if self._loop.clock() < self._until:
            told(self._body)
            return
        self._waiting.append(told)
        if len(self._waiting) == 1:
            threading.Thread(target=self._ask, name="digest", daemon=True).start()

    def _ask(self) -> None:
        begun = self._loop.clock()
        try:
            found = client.call(self._paths.socket, "GET", "/v1/digest", timeout=ASK)
            body = json.dumps(found, separators=(",", ":")).encode()
        except WardmeshError:
            body = b""
        fresh = max(FRESH, SHARE * (self._loop.clock() - begun))
        self._loop.ask(lambda: self._arrived(body, fresh))

    def _arrived(self, body: bytes, fresh: float) -> None:
        self._body, self._until = body, self._loop.clock() + fresh
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            told(body)
