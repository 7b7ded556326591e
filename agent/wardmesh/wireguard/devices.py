# SPDX-License-Identifier: Apache-2.0
"""Which devices carry the host's traffic, what the host's addresses are, and how it reaches another one."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wardmesh.host import netlink
from wardmesh.host.netlink import Message, Netlink
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address
from wardmesh.wireguard.links import Link, names, read_links
from wardmesh.wireguard.mark import MARK, OWN_PREFIX

RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
NEWROUTE, GETROUTE = 24, 26
RTA_DST, RTA_OIF, RTA_PREFSRC, RTA_METRICS, RTA_TABLE, RTA_MARK = 1, 4, 7, 8, 15, 16
RTAX_MTU = 2
_MAIN = 254
_UNICAST = 1
# Bridges of container and machine managers: what crosses them is not the host's own traffic.
_CONTAINER_DEVICE = re.compile(
    r"^(docker\d|br-[0-9a-f]{12}$|virbr\d|lxcbr\d|lxdbr\d|incusbr\d|cni|podman\d|cilium_)"
)


_CARDS = ("", "vlan", "bond", "team")  # hardware, and what is made of it


@dataclass(frozen=True)
class Path:
    """How the host reaches an address outside the tunnel; mtu in bytes, the route's own where it has one."""

    device: str
    ifindex: int
    mtu: int
    source: Address | None


def guarded_devices(links: Sequence[Link], configured: Sequence[str], defaults: frozenset[int]) -> list[Link]:
    """The devices to guard: the configured ones, else every one that carries the host's traffic.

    defaults: indexes of the devices of default routes, never left out. A card without an address is one of
    them: it is guarded before the first packet that its address will bring.
    """
    if configured:
        return [link for link in links if link.name in configured]
    return [
        link
        for link in links
        if (link.addresses or (link.kind in _CARDS and link.l2 and not link.master))
        and not link.loopback
        and not link.name.startswith(OWN_PREFIX)
        and (link.ifindex in defaults or not _for_containers(link, links))
    ]


def missing_devices(links: Sequence[Link], configured: Sequence[str]) -> list[str]:
    """Configured devices that the host does not have."""
    return sorted(set(configured) - set(names(links)))


def _for_containers(link: Link, links: Sequence[Link]) -> bool:
    if link.kind == "dummy" or _CONTAINER_DEVICE.match(link.name):
        return True
    ports = [port.kind for port in links if port.master == link.ifindex]
    return link.kind == "bridge" and all(kind in ("veth", "tun") for kind in ports)


def default_devices(link: Netlink) -> frozenset[int]:
    """Indexes of the devices of the main table's default routes, both families."""
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind, body in _main_table(link, family):
            if kind != NEWROUTE or RTMSG.unpack_from(body)[1] or RTMSG.unpack_from(body)[4] != _MAIN:
                continue
            index = netlink.number(netlink.attrs(body[RTMSG.size :]).get(RTA_OIF, b""))
            if index:
                found.add(index)
    return frozenset(found)


def _main_table(link: Netlink, family: int) -> list[tuple[int, bytes]]:
    body = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, _UNICAST, 0) + netlink.attr_u32(RTA_TABLE, _MAIN)
    try:
        return link.dump(Message(GETROUTE, 0, body))
    except OSError:  # no such table (nothing configured yet), or no such family in this kernel
        return []


def node_addresses(link: Netlink, hint: str = "") -> list[Address]:
    """What to register as this host's addresses, the primary one first.

    Those of the device that carries hint (the address by which the controller reaches the host),
    else of the default route's devices, else of every device that would be guarded.
    """
    links = read_links(link)
    defaults = default_devices(link)
    wanted = _parse(hint)
    chosen = [item for item in links if wanted is not None and wanted in item.addresses and not item.loopback]
    chosen = chosen or guarded_devices([item for item in links if item.ifindex in defaults], (), defaults)
    chosen = chosen or guarded_devices(links, (), defaults)
    found = [address for item in chosen for address in item.addresses]
    return sorted(dict.fromkeys(found), key=lambda address: (address != wanted, address.version))


def _parse(hint: str) -> Address | None:
    try:
        return ipaddress.ip_address(hint)
    except ValueError:
        return None


def path_to(link: Netlink, address: Address) -> Path | None:
    """How the host reaches address outside the tunnel; None where it does not."""
    return paths_to(link, [address])[address]


def paths_to(link: Netlink, addresses: Iterable[Address]) -> dict[Address, Path | None]:
    """path_to for many addresses, a system call for every hundred: the whole fleet in a fraction of a second.

    The question carries WireGuard's own mark, so that our rules send it past the tunnel's table.
    """
    wanted = list(dict.fromkeys(addresses))
    devices = {item.ifindex: item for item in read_links(link)}
    answers = link.ask([Message(GETROUTE, 0, _question(address)) for address in wanted])
    return {
        address: None if isinstance(answer, OSError) else _path(answer, devices)
        for address, answer in zip(wanted, answers)
    }


def _question(address: Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = RTMSG.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return body + netlink.attr(RTA_DST, address.packed) + netlink.attr_u32(RTA_MARK, MARK)


def _path(answer: bytes, devices: dict[int, Link]) -> Path | None:
    found = netlink.attrs(answer[RTMSG.size :])
    device = devices.get(netlink.number(found.get(RTA_OIF, b"")))
    if device is None or RTMSG.unpack_from(answer)[7] != _UNICAST:  # local, unreachable, blackhole
        return None
    metrics = netlink.attrs(found.get(RTA_METRICS, b""))
    known = netlink.number(metrics.get(RTAX_MTU, b""))
    source = found.get(RTA_PREFSRC)
    return Path(
        device.name,
        device.ifindex,
        min(known, device.mtu) if known else device.mtu,
        ipaddress.ip_address(bytes(source)) if source is not None else None,
    )


def require_devices(links: Sequence[Link], configured: Sequence[str]) -> None:
    """WardmeshError when none of the configured devices exists: nothing would be guarded."""
    missing = missing_devices(links, configured)
    if configured and len(missing) == len(set(configured)):
        raise WardmeshError(
            "no such device",
            where="config: devices",
            why=f"{', '.join(missing)} not found; the host has {', '.join(names(links))}",
            remedy="correct the list, or leave it out to have the devices detected",
        )
