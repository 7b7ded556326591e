# SPDX-License-Identifier: Apache-2.0
"""The checks of peers inside a host of hosts.py: prober and responder in a thread."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.netns.agent import MemberFacts

from wardmesh.health import reach
from wardmesh.health.loop import Loop
from wardmesh.health.prober import Prober
from wardmesh.health.record import Peer, document
from wardmesh.health.responder import Responder
from wardmesh.health.route import way_to
from wardmesh.host.netlink import Netlink

INTERVAL = 1.0


class _Running:
    def __init__(self, own: str, facts: list[MemberFacts]) -> None:
        self.loop = Loop()
        self.link = Netlink()
        members = {address for fact in facts for address in fact.addresses}
        addresses = {fact.name: fact.addresses for fact in facts}
        self.responder = Responder(self.loop, members.__contains__)
        self.responder.listen(addresses[own])
        self.prober = Prober(self.loop, self._device, lambda *_said: None, INTERVAL, time.time())
        peers = [Peer(name, found) for name, found in addresses.items() if name != own]
        self.prober.set_peers(own, peers)
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def _device(self, address: str) -> str:
        return way_to(self.link, address).device

    def stop(self) -> None:
        self.loop.stop()
        self.thread.join(10)
        self.prober.close()
        self.responder.close()
        self.link.close()
        self.loop.close()


_running: _Running | None = None


def start(own: str, facts: list[MemberFacts]) -> None:
    """Check the peers and answer them, until stop."""
    global _running
    stop()
    _running = _Running(own, facts)


def stop() -> None:
    global _running
    if _running is not None:
        _running.stop()
    _running = None


def rows() -> dict[str, dict[str, Any]]:
    """What is known, by peer."""
    held = _running
    if held is None:
        raise RuntimeError("start comes first")

    def read() -> list[dict[str, Any]]:
        return document(held.prober.records.values(), held.loop.clock())

    return {row["name"]: row for row in held.loop.ask(read).result(5)}


def path_mtu(address: str, largest: int) -> int:
    return reach.path_mtu(address, largest)


def way(address: str) -> tuple[str, int]:
    with Netlink() as link:
        found = way_to(link, address)
    return found.device, found.mtu
