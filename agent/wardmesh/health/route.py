# SPDX-License-Identifier: Apache-2.0
"""Which device an ordinary packet to an address would leave by: the routes decide, as for any application."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from wardmesh.host import netlink
from wardmesh.host.netlink import Message, Netlink

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_GETROUTE, _DST, _OIF, _METRICS, _MTU = 26, 1, 4, 8, 2  # linux/rtnetlink.h


@dataclass(frozen=True)
class Way:
    """device: empty where there is no way; mtu: the route's own in bytes, 0 where it has none."""

    device: str = ""
    mtu: int = 0


NOWHERE = Way()


def way_to(link: Netlink, address: str) -> Way:
    """The kernel's answer for an ordinary packet of this host."""
    parsed = ipaddress.ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    body = _RTMSG.pack(family, parsed.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + netlink.attr(_DST, parsed.packed)
    (answer,) = link.ask([Message(_GETROUTE, 0, body)])
    if isinstance(answer, OSError):
        return NOWHERE
    found = netlink.attrs(answer[_RTMSG.size :])
    index = netlink.number(found.get(_OIF, b""))
    mtu = netlink.number(netlink.attrs(found.get(_METRICS, b"")).get(_MTU, b""))
    try:
        return Way(socket.if_indextoname(index), mtu) if index else NOWHERE
    except OSError:  # it went away just now
        return NOWHERE
