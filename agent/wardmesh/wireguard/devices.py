# SPDX-License-Identifier: Apache-2.0
"""Devices and addresses of this host, as the kernel tells them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wardmesh.model.fleetmap import Address

_GLOBAL = 0  # RT_SCOPE_UNIVERSE
_ETHERNET = 1  # ARPHRD_ETHER
# Temporary (0x01, RFC 8981), failed duplicate detection (0x08), deprecated (0x20): nothing to register.
_UNSTABLE = 0x01 | 0x08 | 0x20
# Bridges of container and machine managers: what crosses them is routed, and not the host's own.
_CONTAINERS = re.compile(
    r"^(docker\d|br-[0-9a-f]{12}$|virbr\d|lxcbr\d|lxdbr\d|incusbr\d|cni|podman\d|cilium_)"
)
OWN_PREFIX = "wardmesh_"


@dataclass(frozen=True)
class Link:
    """A device; l2: it has an Ethernet header; addresses: its stable global ones.

    kind is the driver's ("" for hardware), master the index of the bridge that it is a port of, else 0.
    """

    ifindex: int
    name: str
    mtu: int
    l2: bool
    loopback: bool
    addresses: tuple[Address, ...]
    kind: str = ""
    master: int = 0


@dataclass(frozen=True)
class Route:
    """What the main table says about a destination: device, its MTU, and the source address."""

    ifindex: int
    source: Address | None


def links(ipr: Any) -> list[Link]:
    """Every device with its global addresses."""
    addresses: dict[int, list[Address]] = {}
    for message in ipr.get_addr():
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        flags = message.get_attr("IFA_FLAGS") or message["flags"]
        if message["scope"] == _GLOBAL and text and not flags & _UNSTABLE:
            addresses.setdefault(message["index"], []).append(ipaddress.ip_address(text))
    return [
        Link(
            message["index"],
            message.get_attr("IFLA_IFNAME"),
            message.get_attr("IFLA_MTU"),
            message["ifi_type"] == _ETHERNET,
            bool(message["flags"] & 8),
            tuple(addresses.get(message["index"], ())),
            _kind(message),
            message.get_attr("IFLA_MASTER") or 0,
        )
        for message in ipr.get_links()
    ]


def _kind(message: Any) -> str:
    info = message.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""


def _for_containers(link: Link, found: Sequence[Link]) -> bool:
    """A bridge that has only containers and machines on it, or addresses of services."""
    if link.kind == "dummy" or _CONTAINERS.match(link.name):
        return True
    ports = [port.kind for port in found if port.master == link.ifindex]
    return link.kind == "bridge" and bool(ports) and all(kind in ("veth", "tun") for kind in ports)


def guarded(found: Sequence[Link], configured: tuple[str, ...]) -> list[Link]:
    """The devices to guard: the configured ones, else every one with a global address that is not ours.

    Bridges of containers are left out: their traffic is routed and goes into the tunnel by our rules.
    """
    if configured:
        return [link for link in found if link.name in configured]
    return [
        link
        for link in found
        if link.addresses
        and not link.loopback
        and not link.name.startswith(OWN_PREFIX)
        and not _for_containers(link, found)
    ]


def route_to(ipr: Any, address: Address, mark: int) -> Route | None:
    """How the host would send to address without the tunnel (our rules skip the mark)."""
    try:
        for message in ipr.route(
            "get", dst=str(address), mark=mark, family=2 if address.version == 4 else 10
        ):
            source = message.get_attr("RTA_PREFSRC")
            index = message.get_attr("RTA_OIF")
            return Route(index, ipaddress.ip_address(source) if source else None) if index else None
    except Exception as error:  # pyroute2 versions differ in the class; every one means unreachable
        if not hasattr(error, "code"):
            raise
    return None


def node_addresses(ipr: Any, hint: str) -> list[str]:
    """Addresses to register: those of the device that carries hint, else of the default route's device."""
    found = links(ipr)
    chosen = [link for link in found if hint in map(str, link.addresses)]
    if not chosen:
        defaults = {message.get_attr("RTA_OIF") for message in ipr.get_default_routes()}
        chosen = [link for link in found if link.ifindex in defaults]
    if not chosen:
        chosen = guarded(found, ())
    addresses = [address for link in chosen for address in link.addresses]
    addresses.sort(key=lambda address: (str(address) != hint, address.version))
    return list(dict.fromkeys(map(str, addresses)))
