# SPDX-License-Identifier: Apache-2.0
"""Where the API may be reached from. Flows tell who talks to whom: nobody gets them in the open.

A client proves who it is by the socket's permissions, by a certificate, or by coming from a member's address
while the guard drops everything that claims such an address outside the tunnel (strict mode).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass

from wardmesh.model.certificates import MEMBER_SUFFIX
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address
from wardmesh.observe.settings import HostPort, Tls

# gRPC opens both families for "::", and IPv4 alone where the host has no IPv6.
WILDCARDS = {"": "::", "::": "::", "0.0.0.0": "0.0.0.0"}  # noqa: S104  an operator asked for it
_LOOPBACKS = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))


@dataclass(frozen=True)
class Binding:
    """One TCP address to listen on."""

    address: Address
    port: int
    tls: bool

    def target(self) -> str:
        """As gRPC wants it."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Plan:
    """Bindings, and what an operator should know about them."""

    bindings: tuple[Binding, ...] = ()
    warnings: tuple[str, ...] = ()


def plan(listen: HostPort | None, tls: Tls | None, own: Iterable[Address], *, sealed: bool) -> Plan:
    """What to listen on. own: this member's addresses; sealed: is strict mode in force?

    WardmeshError where a single address was asked for that may not be served.
    """
    if listen is None:
        return Plan()
    mine = tuple(own)
    if listen.host in WILDCARDS:
        return _everywhere(listen, tls is not None, mine, sealed)
    try:
        address = ipaddress.ip_address("127.0.0.1" if listen.host == "localhost" else listen.host)
    except ValueError as error:
        raise WardmeshError(
            f"{listen.host!r} is no address", where="listenAddress", remedy="write an IP address and a port"
        ) from error
    secured = tls is not None and not (tls.rollout and address.is_loopback)
    if not secured and not address.is_loopback and not (sealed and address in mine):
        raise WardmeshError(
            "flows are not served in plain text",
            where=f"listenAddress: {address}",
            why="strict mode is not in force" if address in mine else "this is no address of this member",
            remedy="set hubble.tls.certFile and hubble.tls.keyFile, or listen on 127.0.0.1",
        )
    return Plan((Binding(address, listen.port, secured),))


def _everywhere(listen: HostPort, tls: bool, own: tuple[Address, ...], sealed: bool) -> Plan:
    if tls:
        wildcard = ipaddress.ip_address(WILDCARDS[listen.host])
        return Plan((Binding(wildcard, listen.port, True),))
    families = {address.version for address in own} | {4}
    found = [Binding(loop, listen.port, False) for loop in _LOOPBACKS if loop.version in families]
    if sealed:
        return Plan((*found, *(Binding(address, listen.port, False) for address in own)))
    why = "hubble.listenAddress: without TLS, and while strict mode is not in force, only this host is served"
    return Plan(tuple(found), (why,))


class Gate:
    """Who may ask: the socket's users, this host, members, and whoever has a certificate of the client CA.

    names: of the members' certificates where the rollout made them: a host that left is refused at once.
    revoked: SHA-256 of certificates (DER) that nobody may show, in small hexadecimal digits.
    """

    def __init__(
        self,
        members: Iterable[Address],
        *,
        certified: bool,
        names: Iterable[str] | None = None,
        revoked: Iterable[str] = (),
    ) -> None:
        self._members = frozenset(members)
        self._certified = certified  # TLS has asked for a certificate already
        self._names = None if names is None else frozenset(names)
        self._revoked = frozenset(revoked)

    @property
    def revokes(self) -> bool:
        """Is there a certificate that is refused?"""
        return bool(self._revoked)

    def trusts(self, certificate: bytes | None) -> bool:
        """Is it none of those that were revoked? certificate: DER; None: nobody showed one."""
        return certificate is None or hashlib.sha256(certificate).hexdigest() not in self._revoked

    @property
    def members_only(self) -> bool:
        """Does a member's certificate count only while it is a member?"""
        return self._names is not None

    def knows(self, shown: Iterable[bytes]) -> bool:
        """Do these names belong to a client, or to a present member? Without any it is no member's."""
        found = {name.decode("ascii", "replace") for name in shown}
        of_members = {name for name in found if name.endswith(MEMBER_SUFFIX)}
        return not of_members or self._names is None or bool(of_members & self._names)

    def admits(self, peer: str) -> bool:
        """peer: as gRPC names it: unix:…, ipv4:ADDRESS:PORT, ipv6:%5BADDRESS%5D:PORT."""
        if peer.startswith("unix:"):
            return True
        if self._certified:
            return True
        address = peer_address(peer)
        if address is None:
            return False
        return address.is_loopback or address in self._members


def peer_address(peer: str) -> Address | None:
    """The address in gRPC's name of a peer; None where there is none."""
    match = re.fullmatch(r"ipv[46]:\[?([0-9a-fA-F:.]+?)(?:%[\w.]+)?\]?:[0-9]+", urllib.parse.unquote(peer))
    if match is None:
        return None
    try:
        address = ipaddress.ip_address(match[1])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address
