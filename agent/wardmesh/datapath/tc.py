# SPDX-License-Identifier: Apache-2.0
"""clsact qdiscs and bpf filters of network devices; changes by pyroute2 (0.7 and 0.9)."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from wardmesh.datapath.contract import EGRESS, INGRESS
from wardmesh.host import netlink
from wardmesh.host.netlink import Message, Netlink

# A number of our own, so that another's filter with the customary handle 1 is never replaced.
HANDLE = 51871
PREFIX = "wardmesh-"
FIREWALL_PREFIX = "wardmeshfw-"
STAND_IN_PREFIX = "wardmeshshut-"

_CLSACT = 0xFFFFFFF1  # TC_H_CLSACT; an old ingress qdisc sits at the same place
_PARENT = {INGRESS: 0xFFFFFFF2, EGRESS: 0xFFFFFFF3}
_ETH_P_ALL = 3
# struct tcmsg (family, padding, interface, handle, parent, info), messages and attributes: linux/rtnetlink.h,
# linux/pkt_cls.h.
_TCMSG = struct.Struct("=BBHiIII")
_NEWQDISC, _GETQDISC, _NEWTFILTER, _GETTFILTER = 36, 38, 44, 46
_KIND, _OPTIONS, _BPF_NAME = 1, 2, 7


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
        return self.kind == "bpf" and self.name.startswith((PREFIX, FIREWALL_PREFIX, STAND_IN_PREFIX))

    @property
    def can_share(self) -> bool:
        """Can ours stand at the same priority? It then runs first: the kernel puts new ones in front."""
        return self.kind == "bpf" and self.protocol == _ETH_P_ALL and self.handle != HANDLE


class Tc:
    """Traffic control; errors are OSError with the kernel's errno.

    What is there is read with our own netlink, at every pass. pyroute2 makes the changes, and is imported
    with the first one: an agent that finds everything in place never pays its 0.15 s and 20 MB.
    """

    def __init__(self) -> None:
        self._link = Netlink()
        self._changer: Any = None

    def __enter__(self) -> Tc:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()
        if self._changer is not None:
            self._changer.close()

    def _change(self, *words: Any, **options: Any) -> None:
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        if self._changer is None:
            self._changer = IPRoute()
        try:
            self._changer.tc(*words, **options)
        except NetlinkError as error:
            text = error.args[1] if len(error.args) > 1 else os.strerror(error.code)
            raise OSError(error.code, str(text)) from error

    def ingress_qdiscs(self) -> dict[int, str]:
        """Kind (clsact or ingress) by interface index, for every device that has one."""
        found = {}
        for kind, body in self._link.dump(Message(_GETQDISC, 0, _TCMSG.pack(0, 0, 0, 0, 0, 0, 0))):
            ifindex, _handle, parent, _info = _TCMSG.unpack_from(body)[3:]
            if kind == _NEWQDISC and parent & 0xFFFFFFFF == _CLSACT:
                found[ifindex] = netlink.text(netlink.attrs(body[_TCMSG.size :])[_KIND])
        return found

    def add_clsact(self, ifindex: int) -> None:
        """Add the qdisc; EEXIST when there is one."""
        self._change("add", "clsact", ifindex)

    def del_clsact(self, ifindex: int) -> None:
        """Delete the qdisc with everything in it."""
        self._change("del", "clsact", ifindex)

    def filters(self, ifindex: int, direction: int) -> list[Filter]:
        """The filters of one direction, first to run first."""
        question = _TCMSG.pack(0, 0, 0, ifindex, 0, _PARENT[direction], 0)
        found = []
        for kind, body in self._link.dump(Message(_GETTFILTER, 0, question)):
            index, handle, _parent, info = _TCMSG.unpack_from(body)[3:]
            # The kernel also lists each priority itself, with handle 0.
            if kind == _NEWTFILTER and handle and index == ifindex:
                found.append(_filter(handle, info, netlink.attrs(body[_TCMSG.size :])))
        return found

    def replace_filter(self, ifindex: int, direction: int, fd: int, name: str, prio: int) -> None:
        """Attach a program, or swap the one at our handle: each packet meets the old or the new one."""
        self._change(
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
        self._change("del-filter", "bpf", ifindex, which.handle, parent=_PARENT[direction], info=info)


def _filter(handle: int, info: int, attributes: dict[int, netlink.Bytes]) -> Filter:
    kind = netlink.text(attributes.get(_KIND, b""))
    # Other kinds number their options otherwise.
    options = netlink.attrs(attributes.get(_OPTIONS, b"")) if kind == "bpf" else {}
    return Filter(
        prio=info >> 16,
        handle=handle,
        kind=kind,
        name=netlink.text(options.get(_BPF_NAME, b"")),
        protocol=socket.ntohs(info & 0xFFFF),
    )


def free_prio(filters: list[Filter], prio: int = 1) -> int:
    """The lowest priority from this one on at which our filter can stand."""
    while any(other.prio == prio and not other.can_share for other in filters):
        prio += 1
    return prio
