# SPDX-License-Identifier: Apache-2.0
"""A relay's connections to the members: one channel each, kept, with backoff; asyncio throughout.

A thread for every member and client would be a thousand times a hundred of them; here they are tasks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardmesh.observe.client import Access, open_channel
from wardmesh.observe.needs import need
from wardmesh.observe.proto import message
from wardmesh.observe.roster import DELETED, Peer
from wardmesh.observe.settings import Tls

CONNECTED, UNAVAILABLE, GONE, ERROR = 1, 2, 3, 4  # relay.NodeState
DIAL_TIMEOUT = 5.0  # seconds; upstream's
ANSWER_TIMEOUT = 12.0
_RETRY_PEERS = 2.0


@dataclass
class Link:
    """One member. channel: of grpc.aio; before: its last one, whose streams go on after new certificates."""

    peer: Peer
    channel: Any
    calls: dict[str, Any] = field(default_factory=dict)
    before: Any = None

    async def change(self, channel: Any) -> None:
        """New calls take another channel; running ones stay on theirs."""
        oldest, self.before = self.before, self.channel
        self.channel, self.calls = channel, {}
        if oldest is not None:
            await oldest.close(0)

    async def close(self) -> None:
        """End everything."""
        for channel in (self.before, self.channel):
            if channel is not None:
                await channel.close(0)

    async def ready(self, timeout: float = DIAL_TIMEOUT) -> bool:
        """Is it connected, or within this time? A member that refused a moment ago is not waited for."""
        states = need("grpc").ChannelConnectivity
        end = time.monotonic() + timeout
        state = self.channel.get_state(try_to_connect=True)
        while state is not states.READY:
            left = end - time.monotonic()
            if state in (states.TRANSIENT_FAILURE, states.SHUTDOWN) or left <= 0:
                return False
            try:
                await asyncio.wait_for(self.channel.wait_for_state_change(state), left)
            except asyncio.TimeoutError:
                return False
            state = self.channel.get_state(try_to_connect=True)
        return True

    def call(self, method: str, *, stream: bool = False) -> Any:
        """A method of observer.Observer."""
        if method not in self.calls:
            make = self.channel.unary_stream if stream else self.channel.unary_unary
            self.calls[method] = make(
                f"/observer.Observer/{method}",
                request_serializer=_bytes_of,
                response_deserializer=message(f"observer.{method}Response").FromString,
            )
        return self.calls[method]


class Links:
    """The members as they are now; who leaves the fleet is let go."""

    def __init__(self, tls: Tls | None, own: str = "", own_socket: Path | None = None) -> None:
        """own: the name (cluster/member) of the relay's own host, which is asked by its socket."""
        self._tls = tls
        self._own = own
        self._own_socket = own_socket
        self._links: dict[str, Link] = {}

    @property
    def by_name(self) -> dict[str, Link]:
        """Link by cluster/member."""
        return self._links

    @property
    def encrypted(self) -> bool:
        """Are members asked by TLS?"""
        return self._tls is not None

    async def replace(self, peers: Iterable[Peer]) -> None:
        """Connect to new ones, forget those that left, connect anew where an address changed."""
        wanted = {peer.name: peer for peer in peers}
        kept = {name: link for name, link in self._links.items() if wanted.get(name) == link.peer}
        dropped = [link for name, link in self._links.items() if name not in kept]
        for name, peer in wanted.items():
            if name not in kept:
                kept[name] = Link(peer, self._channel(peer))
        self._links = dict(sorted(kept.items()))
        for link in dropped:
            await link.close()

    async def secure(self, tls: Tls | None) -> None:
        """Use these settings, and what their files hold now, for every new call."""
        self._tls = tls
        for link in self._links.values():
            await link.change(self._channel(link.peer))

    def _channel(self, peer: Peer) -> Any:
        aio = need("grpc.aio")
        if peer.name == self._own and self._own_socket is not None:
            return open_channel(Access(f"unix://{self._own_socket}"), aio)
        if self._tls is None:
            return open_channel(Access(peer.address), aio)
        tls = self._tls
        access = Access(peer.address, True, tls.client_ca, tls.cert, tls.key, peer.server_name)
        return open_channel(access, aio)

    async def close(self) -> None:
        """Let go of everybody."""
        await self.replace(())


async def follow_peers(access: Access, taken: Callable[[list[Peer]], Any]) -> None:
    """Keep up with the members that a server knows (Peer.Notify), for ever; taken: a coroutine function."""
    grpc = need("grpc")
    known: dict[str, Peer] = {}
    while True:
        channel = open_channel(access, need("grpc.aio"))
        call = channel.unary_stream(
            "/peer.Peer/Notify",
            request_serializer=_bytes_of,
            response_deserializer=message("peer.ChangeNotification").FromString,
        )
        try:
            async for told in call(message("peer.NotifyRequest")()):
                known = dict(known)
                if told.type == DELETED:
                    known.pop(told.name, None)
                else:
                    known[told.name] = Peer(told.name, told.address, told.tls.server_name)
                await taken(list(known.values()))
        except grpc.RpcError:
            pass  # who was known stays known, until the server is there again
        await channel.close(0)
        await asyncio.sleep(_RETRY_PEERS)


def _bytes_of(made: Any) -> bytes:
    return bytes(made.SerializeToString())
