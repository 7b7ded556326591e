# SPDX-License-Identifier: Apache-2.0
"""Makes the kernel's rules and our table what routes.py says they should be, by differences."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wardmesh.host import netlink
from wardmesh.host.netlink import Bytes, Message, Netlink
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Network
from wardmesh.wireguard.devices import (
    GETROUTE,
    NEWROUTE,
    RTA_DST,
    RTA_METRICS,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_TABLE,
    RTAX_MTU,
    RTMSG,
)
from wardmesh.wireguard.mark import MARK, MARK_MASK
from wardmesh.wireguard.routes import (
    END,
    FROM_DEVICE,
    FROM_SUBNET,
    GOTO_END,
    LOOKUP,
    PRIORITIES,
    PROTOCOL,
    TABLE,
    Route,
    RoutingDesired,
    Rule,
)

DELROUTE, NEWRULE, DELRULE, GETRULE = 25, 32, 33, 34
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_RTA_PRIORITY = 6
_UNICAST, _SCOPE_LINK, _SCOPE_NOWHERE = 1, 253, 255
_RULE = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, reserved, reserved, action, flags
_LOOKUP_ACTION, _GOTO_ACTION, _NOP_ACTION = 1, 2, 3
_SRC, _IIFNAME, _GOTO, _PRIORITY, _FWMARK, _RULE_TABLE, _FWMASK, _PROTOCOL = 2, 3, 4, 6, 10, 15, 16, 21
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
_NOT_HERE = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class _Found:
    """A route of our table as the kernel has it; right: nothing about it is foreign to us."""

    route: Route
    ifindex: int
    metric: int
    right: bool


class Routing:
    """Our rules and our table in this network namespace."""

    def __init__(self) -> None:
        self._agreed: dict[int, tuple[RoutingDesired, list[bytes]]] = {}
        self._read: dict[int, dict[bytes, _Found]] = {}  # by version and raw bytes: few of 10,000 change

    def reconcile(self, desired: RoutingDesired) -> list[str]:
        """Make rules and routes what they should be; a line for every change, none when nothing was to do.

        Routes come before the rules that lead to them, and go after them.
        """
        with Netlink() as link:
            lines = []
            for version, family in FAMILIES.items():
                lines += self._reconcile_routes(link, version, family, desired)
            return lines + reconcile_rules(link, desired.rules)

    def teardown(self) -> list[str]:
        """Remove our rules and empty our table, both families."""
        self._agreed.clear()
        self._read.clear()
        with Netlink() as link:
            lines = reconcile_rules(link, frozenset())
            for version, family in FAMILIES.items():
                lines += self._reconcile_routes(link, version, family, RoutingDesired(0))
        return lines

    def _reconcile_routes(
        self, link: Netlink, version: int, family: int, desired: RoutingDesired
    ) -> list[str]:
        bodies = _dump_table(link, family)
        agreed = self._agreed.get(version)
        if agreed is not None and _same_routes(agreed[0], desired) and agreed[1] == bodies:
            return []
        wanted = {net: route for net, route in desired.routes.items() if net.version == version}
        known = self._read.get(version, {})
        read = {body: known.get(body) or _found_route(body) for body in bodies}
        self._read[version] = read
        changes, lines = _route_changes(read.values(), wanted, family, desired)
        if not changes:
            self._agreed[version] = (desired, bodies)
            return []
        self._agreed.pop(version, None)
        return _apply(link, changes, lines, "route")


def _same_routes(one: RoutingDesired, other: RoutingDesired) -> bool:
    """By identity of the routes: of 10,000 none is compared while nothing changes."""
    return one.routes is other.routes and one.ifindex == other.ifindex and one.elsewhere == other.elsewhere


def _dump_table(link: Netlink, family: int) -> list[bytes]:
    """The bodies of our table's routes; the kernel filters, and we do where it is too old to."""
    question = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + netlink.attr_u32(RTA_TABLE, TABLE)
    try:
        found = link.dump(Message(GETROUTE, 0, question))
    except OSError as error:
        if error.errno in (*_GONE, *_NOT_HERE):  # the table does not exist before its first route
            return []
        raise WardmeshError("cannot read the routes", why=error.strerror or str(error)) from error
    table = netlink.attr_u32(RTA_TABLE, TABLE)
    return [body for kind, body in found if kind == NEWROUTE and table in body]


def _route_changes(
    present: Iterable[_Found], wanted: Mapping[Network, Route], family: int, desired: RoutingDesired
) -> tuple[list[Message], list[str]]:
    """The messages that turn the table into what is wanted, and a line for each."""
    good: set[Network] = set()
    stale: list[_Found] = []
    for found in present:
        network = found.route.network
        if (
            found.right
            and found.ifindex == desired.device(network)
            and wanted.get(network) == found.route
            and network not in good
        ):
            good.add(network)
        else:
            stale.append(found)
    missing = [route for network, route in wanted.items() if network not in good]
    messages = [_route_message(route, family, desired.device(route.network)) for route in missing]
    lines = [f"route {route.network}" for route in missing]
    replaced = {route.network for route in missing}
    for found in stale:
        # A route that differs but has our metric is replaced in one step, without a gap.
        if found.route.network in replaced and found.metric == _metric(family):
            replaced.discard(found.route.network)
            continue
        messages.append(_route_deletion(found, family))
        lines.append(f"route {found.route.network} removed")
    return messages, lines


def _metric(family: int) -> int:
    """What the kernel gives a route without one."""
    return 0 if family == socket.AF_INET else 1024


def _found_route(body: bytes) -> _Found:
    head = RTMSG.unpack_from(body)
    found = netlink.attrs(body[RTMSG.size :])
    address = bytes(found.get(RTA_DST, bytes(4 if head[0] == socket.AF_INET else 16)))
    source = found.get(RTA_PREFSRC)
    mtu = netlink.number(netlink.attrs(found.get(RTA_METRICS, b"")).get(RTAX_MTU, b""))
    route = Route(
        ipaddress.ip_network((address, head[1])),
        ipaddress.ip_address(bytes(source)) if source is not None else None,
        mtu,
    )
    metric = netlink.number(found.get(_RTA_PRIORITY, b""))
    right = head[5] == PROTOCOL and head[7] == _UNICAST and metric == _metric(head[0]) and not head[3]
    return _Found(route, netlink.number(found.get(RTA_OIF, b"")), metric, right)


def _route_message(route: Route, family: int, ifindex: int) -> Message:
    scope = _SCOPE_LINK if family == socket.AF_INET else 0
    body = RTMSG.pack(family, route.network.prefixlen, 0, 0, 0, PROTOCOL, scope, _UNICAST, 0)
    body += netlink.attr_u32(RTA_TABLE, TABLE) + netlink.attr(RTA_DST, route.network.network_address.packed)
    body += netlink.attr_u32(RTA_OIF, ifindex)
    if route.source is not None:
        body += netlink.attr(RTA_PREFSRC, route.source.packed)
    if route.mtu:
        body += netlink.nest(RTA_METRICS, netlink.attr_u32(RTAX_MTU, route.mtu))
    return Message(NEWROUTE, netlink.CREATE | netlink.REPLACE, body)


def _route_deletion(found: _Found, family: int) -> Message:
    scope = _SCOPE_NOWHERE if family == socket.AF_INET else 0
    network = found.route.network
    body = RTMSG.pack(family, network.prefixlen, 0, 0, 0, 0, scope, 0, 0)
    body += netlink.attr_u32(RTA_TABLE, TABLE) + netlink.attr(RTA_DST, network.network_address.packed)
    body += netlink.attr_u32(_RTA_PRIORITY, found.metric)
    if found.ifindex:
        body += netlink.attr_u32(RTA_OIF, found.ifindex)
    return Message(DELROUTE, 0, body)


def reconcile_rules(link: Netlink, wanted: frozenset[Rule]) -> list[str]:
    """Make our rules exactly the wanted ones.

    Order: nothing looks the table up before the marks are let past it, and nothing jumps to a missing end.
    """
    good: set[Rule] = set()
    stale: list[tuple[Rule, bytes]] = []
    for rule, right, body in _present_rules(link):
        if right and rule in wanted and rule not in good:
            good.add(rule)
        else:
            stale.append((rule, body))
    added = sorted(wanted - good, key=lambda rule: (_ADD_ORDER[rule.priority], str(rule)))
    removed = sorted(stale, key=lambda item: (-_ADD_ORDER.get(item[0].priority, 4), str(item[0])))
    # A rule in a wrong form stands in the way of the right one: it goes first.
    wrong = [item for item in removed if item[0] in wanted - good]
    late = [item for item in removed if item not in wrong]
    messages = [Message(DELRULE, 0, body) for _rule, body in wrong]
    messages += [Message(NEWRULE, netlink.CREATE | netlink.EXCL, _rule_body(rule)) for rule in added]
    messages += [Message(DELRULE, 0, body) for _rule, body in late]
    lines = [f"rule {rule} removed" for rule, _body in wrong] + [f"rule {rule}" for rule in added]
    return _apply(link, messages, lines + [f"rule {rule} removed" for rule, _body in late], "rule")


_ADD_ORDER = {END: 0, GOTO_END: 1, FROM_DEVICE: 2, FROM_SUBNET: 3, LOOKUP: 4}


def _present_rules(link: Netlink) -> Iterable[tuple[Rule, bool, bytes]]:
    """Our rules as (rule, is it in its right form, its body for a deletion); others' rules are left out."""
    for version, family in FAMILIES.items():
        try:
            dump = link.dump(Message(GETRULE, 0, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)))
        except OSError as error:
            if error.errno in _NOT_HERE:
                continue
            raise WardmeshError("cannot read the rules", why=error.strerror or str(error)) from error
        for _kind, body in dump:
            head = _RULE.unpack_from(body)
            found = netlink.attrs(body[_RULE.size :])
            priority = netlink.number(found.get(_PRIORITY, b""))
            ours = netlink.number(found.get(_PROTOCOL, b"")) == PROTOCOL
            if head[0] == family and ours and priority in PRIORITIES:
                rule = _rule_of(version, priority, head[2], found)
                yield rule, _meaning(body) == _meaning(_rule_body(rule)), body


def _rule_of(version: int, priority: int, length: int, found: Mapping[int, Bytes]) -> Rule:
    subnet = None
    if priority == FROM_SUBNET and _SRC in found:
        subnet = ipaddress.ip_network((bytes(found[_SRC]), length))
    device = netlink.text(found.get(_IIFNAME, b"")) if priority == FROM_DEVICE else ""
    return Rule(version, priority, subnet, device)


def _meaning(body: bytes) -> tuple[object, ...]:
    """What a rule does, however the kernel words it."""
    head = _RULE.unpack_from(body)
    found = netlink.attrs(body[_RULE.size :])
    numbers = tuple(netlink.number(found.get(kind, b"")) for kind in (_GOTO, _PRIORITY, _FWMARK, _FWMASK))
    table = netlink.number(found.get(_RULE_TABLE, b"")) if head[7] == _LOOKUP_ACTION else 0
    address = (bytes(found.get(_SRC, b"")), netlink.text(found.get(_IIFNAME, b"")))
    return (*head[:4], head[7], numbers, table, address)


def _rule_body(rule: Rule) -> bytes:
    action = {LOOKUP: _LOOKUP_ACTION, FROM_SUBNET: _LOOKUP_ACTION, END: _NOP_ACTION}.get(
        rule.priority, _GOTO_ACTION
    )
    length = rule.subnet.prefixlen if rule.subnet is not None else 0
    body = _RULE.pack(FAMILIES[rule.family], 0, length, 0, 0, 0, 0, action, 0)
    body += netlink.attr_u32(_PRIORITY, rule.priority) + netlink.attr_u8(_PROTOCOL, PROTOCOL)
    if action == _LOOKUP_ACTION:
        body += netlink.attr_u32(_RULE_TABLE, TABLE)
    if action == _GOTO_ACTION:
        body += netlink.attr_u32(_GOTO, END)
    if rule.priority == GOTO_END:
        body += netlink.attr_u32(_FWMARK, MARK) + netlink.attr_u32(_FWMASK, MARK_MASK)
    if rule.subnet is not None:
        body += netlink.attr(_SRC, rule.subnet.network_address.packed)
    if rule.device:
        body += netlink.attr_text(_IIFNAME, rule.device)
    return body


def _apply(link: Netlink, messages: list[Message], lines: list[str], what: str) -> list[str]:
    """Send changes; what was removed under our hands counts as removed, another refusal is an error."""
    for message, line, error in zip(messages, lines, link.batch(messages)):
        if error is None or (message.type in (DELROUTE, DELRULE) and error.errno in _GONE):
            continue
        if message.type == NEWRULE and error.errno == errno.EEXIST:
            continue
        raise WardmeshError(f"the kernel refused a {what}", where=line, why=error.strerror or str(error))
    return lines


def read_routes(link: Netlink) -> list[tuple[Route, int, bool]]:
    """Everything in our table, both families, whoever made it: the route, its device's index, and whether it
    has the form that we give to a route."""
    return [
        (found.route, found.ifindex, found.right)
        for family in FAMILIES.values()
        for found in map(_found_route, _dump_table(link, family))
    ]


def read_rules(link: Netlink) -> list[tuple[Rule, bool]]:
    """Our rules, and whether each has its right form."""
    return [(rule, right) for rule, right, _body in _present_rules(link)]
