# SPDX-License-Identifier: Apache-2.0
"""The kernel's WireGuard, by generic netlink (include/uapi/linux/wireguard.h): many peers in one message."""

from __future__ import annotations

import base64
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence

from wardmesh.host import netlink
from wardmesh.host.netlink import Bytes, Message, Netlink
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint, Network
from wardmesh.wireguard import links
from wardmesh.wireguard.backend import (
    PROVOKING_KEEPALIVE,
    DeviceState,
    PeerChanges,
    PeerState,
    PeerUpdate,
)

KIND = "wireguard"
_PROBE = "wardmesh_probe"
_GENL = struct.Struct("=BBH")  # command, version, reserved
_CTRL, _GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_GET_DEVICE, _SET_DEVICE, _VERSION = 0, 1, 1
_IFINDEX, _IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _PORT, _FWMARK, _PEERS = 1, 2, 3, 4, 6, 7, 8
_P_KEY, _P_FLAGS, _P_ENDPOINT, _P_KEEPALIVE, _P_HANDSHAKE, _P_RX, _P_TX, _P_ALLOWED = 1, 3, 4, 5, 6, 7, 8, 9
_A_FAMILY, _A_ADDRESS, _A_PREFIX = 1, 2, 3
REMOVE_ME, REPLACE_ALLOWED_IPS, UPDATE_ONLY = 1, 2, 4
_SOCKADDR4 = struct.Struct("=H2s4s8x")
_SOCKADDR6 = struct.Struct("=H2s4x16sI")
_TIMESPEC = struct.Struct("=qq")
_MESSAGE_BYTES = 24 << 10  # an attribute holds 64 KiB at most; the peers of a message are one
_ALLOWED_PER_ENTRY = 500


class KernelBackend:
    """WireGuard of the running kernel."""

    name = "kernel"

    def __init__(self) -> None:
        self._cache: dict[bytes, PeerState] = {}

    @staticmethod
    def unavailable() -> str:
        """Why this kernel cannot make a WireGuard device, "" when it can: asked by making one."""
        with Netlink() as link:
            try:
                links.create_link(link, _PROBE, KIND)
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.ENODEV):
                    return "the kernel has no WireGuard"
                if error.errno != errno.EEXIST:
                    raise _failed("cannot make a WireGuard device", _PROBE, error) from error
            found = links.find_link(link, _PROBE)
            if found is not None:
                links.delete_link(link, found.ifindex)
        return ""

    def create(self, ifname: str) -> None:
        """Make the device; one of the other backend gives way."""
        with Netlink() as link:
            try:
                found = links.find_link(link, ifname)
                if found is not None:
                    links.delete_link(link, found.ifindex)
                links.create_link(link, ifname, KIND)
            except OSError as error:
                raise _failed("cannot make the WireGuard device", ifname, error) from error

    def remove(self, ifname: str) -> None:
        """Delete the device."""
        with Netlink() as link:
            found = links.find_link(link, ifname)
            if found is None:
                return
            try:
                links.delete_link(link, found.ifindex)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise _failed("cannot delete the WireGuard device", ifname, error) from error

    def exists(self, ifname: str) -> bool:
        """Is there a device of the kernel's own kind?"""
        with Netlink() as link:
            found = links.find_link(link, ifname)
        return found is not None and found.kind == KIND

    def configure(self, ifname: str, private_key: bytes, listen_port: int, fwmark: int) -> None:
        """Key, port and mark."""
        settings = netlink.attr(_PRIVATE_KEY, private_key)
        settings += netlink.attr_u16(_PORT, listen_port) + netlink.attr_u32(_FWMARK, fwmark)
        self._set(ifname, [settings])

    def apply(self, ifname: str, changes: PeerChanges) -> None:
        """Send a delta, a message for some hundred peers."""
        self._set(ifname, pack_changes(changes))

    def provoke(self, ifname: str, peers: Iterable[PeerState]) -> None:
        """Switch keepalive on, which sends at once, and back to what it was."""
        entries = []
        for peer in peers:
            values = (0, peer.keepalive) if peer.keepalive else (PROVOKING_KEEPALIVE, 0)
            entries += [pack_update(PeerUpdate(peer.key, keepalive=value)) for value in values]
        self._set(ifname, [netlink.nest(_PEERS, *chunk) for chunk in _by_size(entries)])

    def dump(self, ifname: str) -> DeviceState:
        """Read the device; what has not changed since the last time is not decoded again."""
        question = _GENL.pack(_GET_DEVICE, _VERSION, 0) + netlink.attr_text(_IFNAME, ifname)
        try:
            with Netlink(netlink.NETLINK_GENERIC) as link:
                bodies = [body for _kind, body in link.dump(Message(_family(link), 0, question))]
        except OSError as error:
            raise _failed("cannot read the WireGuard device", ifname, error) from error
        state, self._cache = unpack_device(bodies, self._cache)
        return state

    def _set(self, ifname: str, parts: Iterable[bytes]) -> None:
        head = _GENL.pack(_SET_DEVICE, _VERSION, 0) + netlink.attr_text(_IFNAME, ifname)
        with Netlink(netlink.NETLINK_GENERIC) as link:
            try:
                family = _family(link)
                for error in link.batch(Message(family, 0, head + part) for part in parts):
                    if error is not None:
                        raise error
            except OSError as error:
                raise _failed("the kernel refused a change of the WireGuard device", ifname, error) from error


def _failed(what: str, ifname: str, error: OSError) -> WardmeshError:
    remedy = "the agent needs CAP_NET_ADMIN" if error.errno in (errno.EPERM, errno.EACCES) else ""
    return WardmeshError(what, where=ifname, why=error.strerror or str(error), remedy=remedy)


def _family(link: Netlink) -> int:
    """The number that this kernel gave to WireGuard's messages."""
    body = _GENL.pack(_GETFAMILY, 1, 0) + netlink.attr_text(_FAMILY_NAME, KIND)
    answer = link.ask([Message(_CTRL, 0, body)])[0]
    if isinstance(answer, OSError):
        raise answer
    return netlink.number(netlink.attrs(answer[_GENL.size :])[_FAMILY_ID])


def pack_changes(changes: PeerChanges) -> list[bytes]:
    """A delta as the peer attributes of as few messages as need be."""
    entries: list[bytes] = []
    for peer in changes.add:
        allowed = sorted(peer.allowed_ips, key=str)
        entries += _entries(peer.key, REPLACE_ALLOWED_IPS, peer.endpoint, peer.keepalive, allowed)
    for update in changes.update:
        entries += _update_entries(update)
    entries += [_peer(key, REMOVE_ME) for key in changes.remove]
    return [netlink.nest(_PEERS, *chunk) for chunk in _by_size(entries)]


def pack_update(update: PeerUpdate) -> bytes:
    """A change of settings as one peer entry."""
    return b"".join(_update_entries(update))


def _update_entries(update: PeerUpdate) -> list[bytes]:
    replaced = update.allowed_ips
    flags = UPDATE_ONLY if replaced is None else UPDATE_ONLY | REPLACE_ALLOWED_IPS
    allowed = sorted(update.gained if replaced is None else replaced, key=str)
    return _entries(update.key, flags, update.endpoint, update.keepalive, allowed)


def _entries(
    key: str, flags: int, endpoint: Endpoint | None, keepalive: int | None, allowed: Sequence[Network]
) -> list[bytes]:
    """One entry, and more where a peer has more allowed IPs than a message should hold."""
    settings = b""
    if endpoint is not None:
        settings += netlink.attr(_P_ENDPOINT, _sockaddr(endpoint))
    if keepalive is not None:
        settings += netlink.attr_u16(_P_KEEPALIVE, keepalive)
    first = _peer(key, flags, settings, allowed[:_ALLOWED_PER_ENTRY])
    rest = range(_ALLOWED_PER_ENTRY, len(allowed), _ALLOWED_PER_ENTRY)
    return [first] + [_peer(key, UPDATE_ONLY, b"", allowed[at : at + _ALLOWED_PER_ENTRY]) for at in rest]


def _peer(key: str, flags: int, settings: bytes = b"", allowed: Sequence[Network] = ()) -> bytes:
    body = netlink.attr(_P_KEY, base64.b64decode(key)) + netlink.attr_u32(_P_FLAGS, flags) + settings
    if allowed:
        body += netlink.nest(_P_ALLOWED, *map(_allowed_ip, allowed))
    return netlink.nest(0, body)


def _allowed_ip(network: Network) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return netlink.nest(
        0,
        netlink.attr_u16(_A_FAMILY, family),
        netlink.attr(_A_ADDRESS, network.network_address.packed),
        netlink.attr_u8(_A_PREFIX, network.prefixlen),
    )


def _sockaddr(endpoint: Endpoint) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    address = ipaddress.ip_address(endpoint.host)
    if address.version == 4:
        return _SOCKADDR4.pack(socket.AF_INET, port, address.packed)
    return _SOCKADDR6.pack(socket.AF_INET6, port, address.packed, 0)


def _by_size(entries: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for entry in entries:
        if chunk and size + len(entry) > _MESSAGE_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry)
    if chunk:
        yield chunk


def unpack_device(
    bodies: Iterable[bytes], cache: dict[bytes, PeerState]
) -> tuple[DeviceState, dict[bytes, PeerState]]:
    """The messages of a dump as a state; cache: the peers of the last dump by their raw bytes."""
    ifindex, public, port, mark = 0, "", 0, 0
    raw: dict[bytes, list[bytes]] = {}  # a peer goes on in the next message when it does not fit
    for body in bodies:
        for kind, value in netlink.walk(body[_GENL.size :]):
            if kind == _IFINDEX:
                ifindex = netlink.number(value)
            elif kind == _PUBLIC_KEY:
                public = base64.b64encode(value).decode()
            elif kind == _PORT:
                port = netlink.number(value)
            elif kind == _FWMARK:
                mark = netlink.number(value)
            elif kind == _PEERS:
                for _place, peer in netlink.walk(value):
                    block = bytes(peer)
                    raw.setdefault(block[4 : 4 + 32], []).append(block)
    fresh = {}
    for blocks in raw.values():
        whole = b"".join(blocks)
        fresh[whole] = cache.get(whole) or _peer_state(blocks)
    return DeviceState(ifindex, public, port, mark, {peer.key: peer for peer in fresh.values()}), fresh


def _peer_state(blocks: list[bytes]) -> PeerState:
    found = netlink.attrs(blocks[0])
    allowed = frozenset(
        _network(netlink.attrs(entry))
        for block in blocks
        for _place, entry in netlink.walk(netlink.attrs(block).get(_P_ALLOWED, b""))
    )
    seconds, nanoseconds = _TIMESPEC.unpack(bytes(found.get(_P_HANDSHAKE, bytes(16))))
    return PeerState(
        base64.b64encode(found[_P_KEY]).decode(),
        _endpoint(bytes(found.get(_P_ENDPOINT, b""))),
        allowed,
        netlink.number(found.get(_P_KEEPALIVE, b"")),
        seconds + nanoseconds / 1e9,
        netlink.number(found.get(_P_RX, b"")),
        netlink.number(found.get(_P_TX, b"")),
    )


def _network(entry: dict[int, Bytes]) -> Network:
    return ipaddress.ip_network((bytes(entry[_A_ADDRESS]), netlink.number(entry[_A_PREFIX])))


def _endpoint(data: bytes) -> Endpoint | None:
    if len(data) < _SOCKADDR4.size:
        return None
    family = int(struct.unpack_from("=H", data)[0])
    port = int.from_bytes(data[2:4], "big")
    host = data[4:8] if family == socket.AF_INET else data[8:24]
    return Endpoint(str(ipaddress.ip_address(host)), port)
