# SPDX-License-Identifier: Apache-2.0
"""clsact qdiscs and bpf filters of network devices, by pyroute2 (0.7 and 0.9)."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pyroute2 import IPRoute

from wardmesh.datapath.contract import EGRESS, INGRESS

# A number of our own, so that another's filter with the customary handle 1 is never replaced.
HANDLE = 51871
PREFIX = "wardmesh-"
FIREWALL_PREFIX = "wardmeshfw-"

_CLSACT = 0xFFFFFFF1  # TC_H_CLSACT; an old ingress qdisc sits at the same place
_PARENT = {INGRESS: 0xFFFFFFF2, EGRESS: 0xFFFFFFF3}
_ETH_P_ALL = 3


@dataclass(frozen=True)
class Filter:
    """One filter of a device and direction, in the order in which the kernel runs them."""

    prio: int
    handle: int
    kind: str
    name: str
    protocol: int

    @property
    def ours(self) -> bool:
        """Was it attached by wardmesh?"""
        return self.kind == "bpf" and self.name.startswith((PREFIX, FIREWALL_PREFIX))

    @property
    def can_share(self) -> bool:
        """Can ours stand at the same priority? It then runs first: the kernel puts new ones in front."""
        return self.kind == "bpf" and self.protocol == _ETH_P_ALL and self.handle != HANDLE


class Tc:
    """A netlink connection for traffic control; errors are pyroute2's NetlinkError (an .code is errno)."""

    def __init__(self) -> None:
        self._ip = IPRoute()

    def __enter__(self) -> Tc:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ip.close()

    def ingress_qdiscs(self) -> dict[int, str]:
        """Kind (clsact or ingress) by interface index, for every device that has one."""
        found = {}
        for message in self._ip.get_qdiscs():
            if message["parent"] == _CLSACT:
                found[int(message["index"])] = str(message.get_attr("TCA_KIND"))
        return found

    def add_clsact(self, ifindex: int) -> None:
        """Add the qdisc; EEXIST when there is one."""
        self._ip.tc("add", "clsact", ifindex)

    def del_clsact(self, ifindex: int) -> None:
        """Delete the qdisc with everything in it."""
        self._ip.tc("del", "clsact", ifindex)

    def filters(self, ifindex: int, direction: int) -> list[Filter]:
        """The filters of one direction, first to run first."""
        messages = self._ip.get_filters(index=ifindex, parent=_PARENT[direction])
        # The kernel also lists each priority itself, with handle 0.
        return [_filter(message) for message in messages if message["handle"] and message["index"] == ifindex]

    def replace_filter(self, ifindex: int, direction: int, fd: int, name: str, prio: int) -> None:
        """Attach a program, or swap the one at our handle: each packet meets the old or the new one."""
        self._ip.tc(
            "replace-filter",
            "bpf",
            ifindex,
            HANDLE,
            parent=_PARENT[direction],
            prio=prio,
            protocol=_ETH_P_ALL,
            fd=fd,
            name=name,
            direct_action=True,
        )

    def del_filter(self, ifindex: int, direction: int, which: Filter) -> None:
        """Delete one filter."""
        info = which.prio << 16 | socket.htons(which.protocol)
        self._ip.tc("del-filter", "bpf", ifindex, which.handle, parent=_PARENT[direction], info=info)


def _filter(message: Any) -> Filter:
    options = message.get_attr("TCA_OPTIONS")
    name = ""
    with suppress(AttributeError):  # kinds that pyroute2 does not know come as plain bytes
        name = options.get_attr("TCA_BPF_NAME") or ""
    return Filter(
        prio=int(message["info"]) >> 16,
        handle=int(message["handle"]),
        kind=str(message.get_attr("TCA_KIND")),
        name=str(name),
        protocol=socket.ntohs(int(message["info"]) & 0xFFFF),
    )


def free_prio(filters: list[Filter]) -> int:
    """The lowest priority at which our filter can stand; 1 unless a filter of another kind is there."""
    prio = 1
    while any(other.prio == prio and not other.can_share for other in filters):
        prio += 1
    return prio
