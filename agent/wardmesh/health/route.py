# SPDX-License-Identifier: Apache-2.0
"""Which device an ordinary packet to an address would leave by: the routes decide, as for any application."""

from __future__ import annotations

import ipaddress
import socket
import struct

from wardmesh.host import netlink
from wardmesh.host.netlink import Message, Netlink

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_GETROUTE, _DST, _OIF = 26, 1, 4  # linux/rtnetlink.h


def device_to(link: Netlink, address: str) -> str:
    """Its name; empty where there is no way."""
    parsed = ipaddress.ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    body = _RTMSG.pack(family, parsed.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + netlink.attr(_DST, parsed.packed)
    (answer,) = link.ask([Message(_GETROUTE, 0, body)])
    if isinstance(answer, OSError):
        return ""
    index = netlink.number(netlink.attrs(answer[_RTMSG.size :]).get(_OIF, b""))
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:  # it went away just now
        return ""
