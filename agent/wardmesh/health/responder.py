# SPDX-License-Identifier: Apache-2.0
"""Answers the other members' checks on the health port.

Who is no member is not answered: the connection is closed before a byte of it is read. A member's address
is proved where the peer is sealed, for then its packets come by the tunnel or not at all; before that, all
that a forger of addresses could learn is that a member is there.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from wardmesh.health.loop import READ, WRITE, Loop
from wardmesh.health.web import PORT, answer, refusal, wants_digest, with_body

LOG = logging.getLogger("wardmesh")
CONNECTIONS_MAX = 128
CONNECTIONS_OF_ONE = 8
PATIENCE = 5.0  # seconds for a whole exchange, however slowly it trickles in
RETRY = 5.0  # seconds until an address that could not be listened on is tried again
_ACCEPTED_AT_ONCE = 32
_FREEBIND = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}  # linux/in.h, in6.h
Admits = Callable[[str], bool]
# The digest as bytes, handed over in the loop's thread, sooner or later; b"" where there is none.
Tell = Callable[[Callable[[bytes], None]], None]


@dataclass(eq=False)
class _Client:
    link: socket.socket
    address: str
    data: bytes = b""
    reply: bytes = b""
    open: bool = field(default=True)


class Responder:
    """Listens on some addresses in a loop. refused: connections of strangers, or beyond the limits."""

    def __init__(
        self,
        loop: Loop,
        admits: Admits,
        port: int = PORT,
        *,
        by_tunnel: Admits = lambda _address: False,
        tell: Tell | None = None,
    ) -> None:
        """by_tunnel: do packets to an address go through the tunnel? Nobody else gets the digest."""
        self._loop = loop
        self._admits, self._by_tunnel, self._tell = admits, by_tunnel, tell
        self._port = port
        self._wanted: frozenset[str] = frozenset()
        self._listeners: dict[str, socket.socket] = {}
        self._clients: set[_Client] = set()
        self._by_address: Counter[str] = Counter()
        self._retry = False
        self.problems: dict[str, str] = {}
        self.answered = 0
        self.refused = 0

    def listen(self, addresses: Iterable[str]) -> None:
        """Listen on exactly these; what cannot be listened on is tried again, and told in `problems`."""
        self._wanted = frozenset(addresses)
        for address in [item for item in self._listeners if item not in self._wanted]:
            self._drop(self._listeners.pop(address))
        self.problems.clear()
        self._listen_missing()

    def _listen_missing(self) -> None:
        self._retry = False
        for address in sorted(self._wanted - set(self._listeners)):
            try:
                self._listeners[address] = self._listener(address)
                self.problems.pop(address, None)
            except OSError as error:
                why = error.strerror or str(error)
                if self.problems.get(address) != why:
                    LOG.error("health: cannot listen on %s port %d: %s", address, self._port, why)
                self.problems[address] = why
        if self.problems and not self._retry:
            self._retry = True
            self._loop.at(self._loop.clock() + RETRY, self._listen_missing)

    def _listener(self, address: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(*_FREEBIND[family], 1)  # the address may come later than we do
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((address, self._port))
            made.listen(64)
        except OSError:
            made.close()
            raise
        self._loop.watch(made, READ, partial(self._accept, made))
        return made

    def _accept(self, listener: socket.socket) -> None:
        for _turn in range(_ACCEPTED_AT_ONCE):
            try:
                link, peer = listener.accept()
            except OSError:  # none waits, or it went away
                return
            address = str(peer[0]).split("%", maxsplit=1)[0]
            full = len(self._clients) >= CONNECTIONS_MAX or self._by_address[address] >= CONNECTIONS_OF_ONE
            if full or not self._admits(address):
                self.refused += 1
                link.close()
                continue
            link.setblocking(False)
            client = _Client(link, address)
            self._clients.add(client)
            self._by_address[address] += 1
            self._loop.watch(link, READ, partial(self._read, client))
            self._loop.at(self._loop.clock() + PATIENCE, partial(self._end, client))

    def _read(self, client: _Client) -> None:
        try:
            part = client.link.recv(2048)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        client.data += part
        if part and self._tell is not None and wants_digest(client.data):
            self._digest(client, self._tell)
            return
        reply = answer(client.data) if part else b""
        if reply is not None:
            self._reply(client, reply)

    def _reply(self, client: _Client, reply: bytes) -> None:
        if not client.open:
            return
        client.reply = reply
        if not reply:
            self._end(client)
            return
        self._loop.watch(client.link, WRITE, partial(self._write, client))

    def _digest(self, client: _Client, tell: Tell) -> None:
        """Where our packets go through the tunnel, only who holds the member's key has got this far."""
        if not self._by_tunnel(client.address):
            self._reply(client, refusal("403 Forbidden"))
            return
        self._loop.forget(client.link)

        def told(body: bytes) -> None:
            self._reply(client, with_body(body) if body else refusal("503 Service Unavailable"))

        tell(told)

    def _write(self, client: _Client) -> None:
        try:
            client.reply = client.reply[client.link.send(client.reply) :]
        except BlockingIOError:
            return
        except OSError:
            client.reply = b""
        if not client.reply:
            self.answered += 1
            self._end(client)

    def _end(self, client: _Client) -> None:
        if not client.open:
            return
        client.open = False
        self._clients.discard(client)
        self._by_address[client.address] -= 1
        if not self._by_address[client.address]:
            del self._by_address[client.address]
        self._drop(client.link)

    def _drop(self, link: socket.socket) -> None:
        self._loop.forget(link)
        link.close()

    def close(self) -> None:
        """Stop listening and end what is open."""
        self._wanted = frozenset()
        for client in list(self._clients):
            self._end(client)
        for listener in self._listeners.values():
            self._drop(listener)
        self._listeners.clear()
