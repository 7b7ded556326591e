# SPDX-License-Identifier: Apache-2.0
"""A relay in this process, before members that are servers in this process too."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from tests.unit.agent.observe.support import Client, Served

from wardmesh.observe.links import Links
from wardmesh.observe.listen import Gate
from wardmesh.observe.relay import RelayService, start_server
from wardmesh.observe.roster import Peer


class Relay:
    """A relay in a thread of this process."""

    def __init__(self, folder: Path, streams: int = 64) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.target = f"unix:{folder}/relay.sock"
        self._run(self._start(streams))

    async def _start(self, streams: int) -> None:
        self._links = Links(None)
        gate = Gate((), certified=False)
        service = RelayService(self._links, lambda: gate, "lab/relay", streams)
        self._server = start_server(service.handlers(), (), None)
        self._server.add_insecure_port(self.target)
        await self._server.start()

    def _run(self, job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(20)

    def peers(self, *names: str) -> None:
        found = [Peer(f"lab/{name}", f"unix:{self._folder}/{name}.sock", "") for name in names]
        self._run(self._links.replace(found))

    async def _stop(self) -> None:
        await self._server.stop(0)
        await self._links.close()

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextlib.contextmanager
def relaying(
    folder: Path, *names: str, streams: int = 64
) -> Iterator[tuple[Relay, Client, dict[str, Served]]]:
    """Members of these names, a relay that knows them, and its client."""
    members = {name: Served(folder, own=name) for name in names}
    relay = Relay(folder, streams)
    try:
        relay.peers(*names)
        with grpc.insecure_channel(relay.target) as channel:
            yield relay, Client(channel), members
    finally:
        relay.close()
        for member in members.values():
            member.close()
