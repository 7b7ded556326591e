# SPDX-License-Identifier: Apache-2.0
"""Asks many members for their digests at once: so many connections at a time, each with a time of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from wardmesh.health.drift import LARGEST, Report, parse_report
from wardmesh.health.record import Peer
from wardmesh.health.web import DIGEST, PORT
from wardmesh.model.errors import WardmeshError

AT_ONCE = 128  # connections
PATIENCE = 8.0  # seconds for one member; it reads its kernel meanwhile
_HEAD = 4096
_REQUEST = f"GET {DIGEST} HTTP/1.1\r\nHost: wardmesh\r\nConnection: close\r\n\r\n".encode()
_CLOSED = "closed without an answer (does it know this host?)"
_MEANING = {
    b"403": "its packets to this host do not come by the tunnel",
    b"404": "its agent is too old to tell",
    b"503": "its agent does not answer",
}
ByTunnel = Callable[[str], bool]


def ask_all(
    peers: Iterable[Peer], by_tunnel: ByTunnel, *, port: int = PORT, patience: float = PATIENCE
) -> list[Report]:
    """A report of each, in the order of the peers; who does not answer says why by its problem.

    by_tunnel: do packets to an address go through the tunnel? Without it an answer would prove nothing.
    """
    return asyncio.run(_all(list(peers), by_tunnel, port, patience))


async def _all(peers: list[Peer], by_tunnel: ByTunnel, port: int, patience: float) -> list[Report]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(peer: Peer) -> Report:
        address = peer.addresses[0]
        if not by_tunnel(address):
            return Report(peer.name, problem="there is no way to it through the tunnel")
        async with room:
            try:
                return await asyncio.wait_for(_ask(peer.name, address, port), patience)
            except asyncio.TimeoutError:
                return Report(peer.name, problem=f"no answer within {patience:g} s")
            except OSError as error:
                return Report(peer.name, problem=_refused(error))
            except WardmeshError as error:
                return Report(peer.name, problem=error.why or error.what)

    return list(await asyncio.gather(*map(one, peers)))


def _refused(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens on its health port (healthChecking.enabled)"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return _CLOSED
    return error.strerror or str(error)


async def _ask(name: str, address: str, port: int) -> Report:
    reader, writer = await asyncio.open_connection(address, port, limit=_HEAD)
    try:
        writer.write(_REQUEST)
        data = b""
        while len(data) <= LARGEST + _HEAD:
            part = await reader.read(16384)
            if not part:
                break
            data += part
    finally:
        writer.close()
    head, _end, body = data.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    status = words[1][:3] if len(words) > 1 else b""
    if status != b"200":
        return Report(name, problem=_MEANING.get(status, _CLOSED))
    return parse_report(body, name)
