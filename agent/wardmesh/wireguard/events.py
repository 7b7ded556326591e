# SPDX-License-Identifier: Apache-2.0
"""Tells when somebody changed a device, address, route, rule or tc filter."""

from __future__ import annotations

import errno
import select

from wardmesh.host.netlink import NETLINK_ROUTE, Netlink
from wardmesh.wireguard.devices import RTMSG

# RTNLGRP_* of linux/rtnetlink.h
_GROUPS = {"link": 1, "tc": 4, "addr4": 5, "route4": 7, "rule4": 8, "addr6": 9, "route6": 11, "rule6": 19}
LINK, ADDRESS, ROUTE, RULE, FILTER, LOST = "link", "address", "route", "rule", "filter", "lost"
# By message type; RTM_NEW* and RTM_DEL* of each kind. Classes and chains are of no interest.
_KINDS = {16: LINK, 17: LINK, 20: ADDRESS, 21: ADDRESS, 24: ROUTE, 25: ROUTE, 32: RULE, 33: RULE}
_KINDS.update({36: FILTER, 37: FILTER, 44: FILTER, 45: FILTER})
_BUFFER = 4 << 20  # a router's table may change by thousands of routes at once
_CLONED = 0x200  # RTM_F_CLONED: a cached route, no change of a table


class Monitor:
    """A subscription to the kernel's notifications; give it to select by fileno()."""

    def __init__(self) -> None:
        self._link = Netlink(NETLINK_ROUTE)
        self._link.set_receive_buffer(_BUFFER)
        self._link.join(_GROUPS.values())

    def fileno(self) -> int:
        """Readable when something changed."""
        return self._link.fileno()

    def drain(self) -> frozenset[str]:
        """What has changed since the last call, by kind; LOST: more than could be kept, look at all."""
        kinds = set()
        try:
            for kind, _port, body in self._link.notifications():
                if kind in _KINDS and not (_KINDS[kind] == ROUTE and RTMSG.unpack_from(body)[8] & _CLONED):
                    kinds.add(_KINDS[kind])
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            kinds.add(LOST)
        return frozenset(kinds)

    def wait(self, seconds: float) -> frozenset[str]:
        """Wait for a change, so long at most; what changed."""
        readable, _writable, _broken = select.select([self], [], [], seconds)
        return self.drain() if readable else frozenset()

    def close(self) -> None:
        """End the subscription."""
        self._link.close()
