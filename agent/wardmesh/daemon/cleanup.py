# SPDX-License-Identifier: Apache-2.0
"""Leave nothing in the kernel: filters, clsact, pins, interface, routes, rules; sysctls as they were.

Files stay: the key, the map, what the agent remembers. Whoever uninstalls removes them.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

from wardmesh.datapath.contract import DIRECTIONS
from wardmesh.datapath.firewall import Firewall
from wardmesh.datapath.guard import Guard
from wardmesh.datapath.stand_in import StandIn
from wardmesh.datapath.tc import Tc
from wardmesh.host import netlink
from wardmesh.host.files import read_bytes
from wardmesh.host.lock import AgentLock
from wardmesh.host.netlink import Message, Netlink
from wardmesh.host.paths import Paths
from wardmesh.host.sysctl import Sysctls
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.backend import Backend
from wardmesh.wireguard.devices import GETROUTE, RTMSG
from wardmesh.wireguard.kernel import KernelBackend
from wardmesh.wireguard.links import read_links
from wardmesh.wireguard.mark import INTERFACE, OWN_PREFIX, SECOND_INTERFACE
from wardmesh.wireguard.routes import PRIORITIES, PROTOCOL, TABLE
from wardmesh.wireguard.routing import GETRULE, Routing
from wardmesh.wireguard.tunnel import Tunnel
from wardmesh.wireguard.userspace import UserspaceBackend

Step = Callable[[], "list[str]"]
_RULE_HEADER = 12  # bytes; struct fib_rule_hdr
_FRA_PRIORITY, _FRA_PROTOCOL, _RTA_TABLE = 6, 21, 15


def cleanup(paths: Paths, *, dry_run: bool) -> list[str]:
    """What was, or would be, removed. Refuses while an agent runs: that one would put everything back."""
    if dry_run:
        return present(paths)
    lock = AgentLock(paths.lock)
    try:
        return remove_everything(paths)
    finally:
        lock.release()


def remove_everything(paths: Paths) -> list[str]:
    """Remove it. A step that fails does not keep the others from being done; its error is raised then."""
    steps: list[Step] = [
        Routing().teardown,
        lambda: _remove_interfaces(KernelBackend()),
        lambda: _remove_interfaces(UserspaceBackend()),
        StandIn(paths).remove,
        lambda: _remove_firewall(paths),
        Guard(paths, 0, 16).teardown,
        Sysctls(paths.sysctls).restore,
    ]
    removed: list[str] = []
    errors = []
    for step in steps:
        try:
            removed += step()
        except (OSError, WardmeshError) as error:
            errors.append(str(error))
    if errors:
        raise WardmeshError(
            "not everything could be removed", why="; ".join(errors), remedy="run it again as root"
        )
    return removed


def _remove_firewall(paths: Paths) -> list[str]:
    return Firewall(paths, 16, 16, 1024).teardown()


def _remove_interfaces(backend: Backend) -> list[str]:
    names = [name for name in (INTERFACE, SECOND_INTERFACE) if backend.exists(name)]
    return [line for name in names for line in Tunnel(backend, name).teardown()]


def present(paths: Paths) -> list[str]:
    """What of ours is in the kernel now; nothing is changed."""
    found = []
    with Netlink() as link:
        links = {item.ifindex: item.name for item in read_links(link)}
        for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            rules, routes = _count_rules(link, family), _count_routes(link, family)
            found += [f"{rules} rules of IPv{version}"] if rules else []
            found += [f"{routes} routes of IPv{version}"] if routes else []
    found += [f"interface {name}" for name in links.values() if name.startswith(OWN_PREFIX)]
    found += _filters(links)
    if paths.bpffs.is_dir():
        found.append(str(paths.bpffs))
    originals = json.loads(read_bytes(paths.sysctls) or b"{}")
    return found + [f"sysctl {name} back to {value}" for name, value in originals.items()]


def _count_rules(link: Netlink, family: int) -> int:
    bodies = _dump(link, Message(GETRULE, 0, bytes([family]) + bytes(_RULE_HEADER - 1)))
    attributes = [netlink.attrs(body[_RULE_HEADER:]) for body in bodies if body[0] == family]
    return sum(
        netlink.number(found.get(_FRA_PROTOCOL, b"")) == PROTOCOL
        and netlink.number(found.get(_FRA_PRIORITY, b"")) in PRIORITIES
        for found in attributes
    )


def _count_routes(link: Netlink, family: int) -> int:
    question = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + netlink.attr_u32(_RTA_TABLE, TABLE)
    bodies = _dump(link, Message(GETROUTE, 0, question))
    tables = [netlink.attrs(body[RTMSG.size :]).get(_RTA_TABLE, b"") for body in bodies]
    return sum(netlink.number(table) == TABLE for table in tables)


def _dump(link: Netlink, message: Message) -> list[bytes]:
    try:
        return [body for _kind, body in link.dump(message)]
    except OSError:  # no such table, or no such family in this kernel
        return []


def _filters(links: dict[int, str]) -> list[str]:
    found = []
    with Tc() as tc:
        for ifindex in tc.ingress_qdiscs():
            for direction, label in DIRECTIONS.items():
                ours = [entry for entry in tc.filters(ifindex, direction) if entry.ours]
                found += [f"guard on {links.get(ifindex, ifindex)}, {label}"] if ours else []
    return found
