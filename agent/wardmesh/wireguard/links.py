# SPDX-License-Identifier: Apache-2.0
"""Devices and their addresses as the kernel tells them, and the few changes that we make to a device."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from wardmesh.host import netlink
from wardmesh.host.netlink import Message, Netlink
from wardmesh.model.fleetmap import Address

NEWLINK, DELLINK, GETLINK, NEWADDR, GETADDR = 16, 17, 18, 20, 22
IFF_UP, IFF_LOOPBACK = 0x1, 0x8
_SCOPE_HOST = 254
_ETHERNET = 1  # ARPHRD_ETHER
_IFINFO = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change mask
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_IFNAME, _MTU, _MASTER, _LINKINFO, _KIND = 3, 4, 10, 18, 1
_AF_SPEC, _AF_INET6, _ADDR_GEN_MODE, _MODE_NONE = 26, 10, 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
# Temporary (0x01, RFC 8981), failed duplicate detection (0x08), deprecated (0x20): nothing to register.
_UNSTABLE = 0x01 | 0x08 | 0x20


@dataclass(frozen=True)
class Link:
    """A device. l2: with Ethernet headers; kind: "" for hardware; addresses: the stable global ones."""

    ifindex: int
    name: str
    mtu: int
    up: bool
    l2: bool
    loopback: bool
    kind: str
    master: int
    addresses: tuple[Address, ...]


def read_links(link: Netlink) -> list[Link]:
    """Every device of this network namespace with its addresses, by index."""
    addresses: dict[int, list[Address]] = {}
    for kind, body in link.dump(Message(GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0))):
        if kind == NEWADDR:
            found = _address(body)
            if found is not None:
                addresses.setdefault(found[0], []).append(found[1])
    links = [
        _link(body, addresses)
        for kind, body in link.dump(Message(GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0)))
        if kind == NEWLINK
    ]
    return sorted(links, key=lambda item: item.ifindex)


def find_link(link: Netlink, name: str) -> Link | None:
    """The device of that name, without its addresses; None where there is none."""
    question = Message(GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + netlink.attr_text(_IFNAME, name))
    answer = link.ask([question])[0]
    return None if isinstance(answer, OSError) else _link(answer, {})


def create_link(link: Netlink, name: str, kind: str) -> None:
    """Make a device of a kind such as "wireguard"; OSError EOPNOTSUPP where the kernel has no such kind."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.attr_text(_IFNAME, name)
    body += netlink.nest(_LINKINFO, netlink.attr(_KIND, kind.encode()))
    link.request(Message(NEWLINK, netlink.CREATE | netlink.EXCL, body))


def delete_link(link: Netlink, ifindex: int) -> None:
    """Remove a device; routes through it go with it. Who held it may be quicker."""
    try:
        link.request(Message(DELLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0)))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def set_mtu(link: Netlink, ifindex: int, mtu: int) -> None:
    """Set a device's MTU, in bytes."""
    link.request(Message(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + netlink.attr_u32(_MTU, mtu)))


def set_up(link: Netlink, ifindex: int) -> None:
    """Bring a device up."""
    link.request(Message(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, IFF_UP, IFF_UP)))


def set_no_autoconfiguration(link: Netlink, ifindex: int) -> None:
    """No link-local IPv6 address: the tunnel has no such address, and nobody solicits routers through it."""
    mode = netlink.nest(_AF_SPEC, netlink.nest(_AF_INET6, netlink.attr_u8(_ADDR_GEN_MODE, _MODE_NONE)))
    link.request(Message(NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + mode))


def add_host_address(link: Netlink, ifindex: int, address: IPv4Address) -> bool:
    """Give a device an IPv4 address of host scope; False where it has it already."""
    body = _IFADDR.pack(socket.AF_INET, address.max_prefixlen, 0, _SCOPE_HOST, ifindex)
    body += netlink.attr(_IFA_LOCAL, address.packed) + netlink.attr(_IFA_ADDRESS, address.packed)
    try:
        link.request(Message(NEWADDR, netlink.CREATE | netlink.EXCL, body))
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def _address(body: bytes) -> tuple[int, Address] | None:
    _family, _length, flags, scope, index = _IFADDR.unpack_from(body)
    found = netlink.attrs(body[_IFADDR.size :])
    flags |= netlink.number(found.get(_IFA_FLAGS, b""))
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    if scope or packed is None or flags & _UNSTABLE:  # scope 0 is global
        return None
    return index, ipaddress.ip_address(bytes(packed))


def _link(body: bytes, addresses: dict[int, list[Address]]) -> Link:
    _family, hardware, index, flags, _change = _IFINFO.unpack_from(body)
    found = netlink.attrs(body[_IFINFO.size :])
    kind = netlink.attrs(found.get(_LINKINFO, b"")).get(_KIND, b"")
    return Link(
        index,
        netlink.text(found.get(_IFNAME, b"")),
        netlink.number(found.get(_MTU, b"")),
        bool(flags & IFF_UP),
        hardware == _ETHERNET,
        bool(flags & IFF_LOOPBACK),
        netlink.text(kind),
        netlink.number(found.get(_MASTER, b"")),
        tuple(dict.fromkeys(addresses.get(index, ()))),
    )


def names(links: Iterable[Link]) -> tuple[str, ...]:
    """Their names, in order."""
    return tuple(link.name for link in links)
