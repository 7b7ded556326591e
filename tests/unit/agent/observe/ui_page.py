# SPDX-License-Identifier: Apache-2.0
"""The page in this process: its listener on a free port of loopback, fed by a server or by hand."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

from wardmesh.observe.client import Access
from wardmesh.observe.listen import Binding, Gate
from wardmesh.observe.settings import Tls
from wardmesh.observe.ui.assets import load_assets
from wardmesh.observe.ui.feed import Feed
from wardmesh.observe.ui.listener import LIFETIME, Listener
from wardmesh.observe.ui.model import FlowModel

LOOPBACK = ipaddress.ip_address("127.0.0.1")


class LivePage:
    """target: the server that is followed, "" for none."""

    def __init__(
        self,
        target: str = "",
        *,
        model: FlowModel | None = None,
        tls: Tls | None = None,
        gate: Gate | None = None,
        lifetime: float = LIFETIME,
    ) -> None:
        self.model = model or FlowModel(target)
        self.gate = gate or Gate((), certified=False)
        binding = Binding(LOOPBACK, 0, tls is not None)
        self.listener = Listener(binding, tls, self.model, load_assets(), lambda: self.gate, lifetime)
        self.listener.start()
        self.port = self.listener.port
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}/"
        self.feed = Feed(Access(target), self.model) if target else None
        if self.feed is not None:
            self.feed.start()

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers by small name, body."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            link.request(method, path, headers=headers or {})
            answer = link.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            link.close()

    def updates(self, **parameters: Any) -> dict[str, Any]:
        """What the page's own script asks."""
        names = {"from_": "from"}
        query = urllib.parse.urlencode({names.get(key, key): value for key, value in parameters.items()})
        status, _headers, body = self.ask(f"/api/v1/updates?{query}")
        answer: dict[str, Any] = json.loads(body)
        assert status == 200, answer
        return answer

    def status(self) -> dict[str, Any]:
        """The relay's state and the counts."""
        answer: dict[str, Any] = json.loads(self.ask("/api/v1/status")[2])
        return answer

    def close(self) -> None:
        self.listener.shutdown()
        self.listener.server_close()
        if self.feed is not None:
            self.feed.close()


@contextlib.contextmanager
def live_page(target: str = "", **how: Any) -> Iterator[LivePage]:
    """A page for as long as the block runs."""
    page = LivePage(target, **how)
    try:
        yield page
    finally:
        page.close()
