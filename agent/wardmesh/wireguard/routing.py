# SPDX-License-Identifier: Apache-2.0
"""Routes into the tunnel and the rules that lead to them.

Priorities 90..99, the same for IPv4 and IPv6:
  90  fwmark MARK        → 99    WireGuard's own packets leave by the ordinary tables
  91  from <own subnet>  table   what a subnet behind this host sends goes into the tunnel
  92  iif <physical>     → 99    what is routed through this host is not the host's
  95  table 51871                everything else: members through the tunnel
  99  nop                        where the jumps land; the operator's own rules go on from here
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wardmesh.datapath.contract import MARK, MARK_MASK
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address, Network

TABLE = 51871
PROTO = 200
_GOTO, _NOP, _TO_TABLE = 2, 3, 1
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class TunnelRoute:
    """A member's network through the tunnel; mtu 0 takes the device's."""

    network: Network
    source: Address | None
    mtu: int = 0


def desired_rules(subnets: Iterable[Network], devices: Iterable[str]) -> dict[int, set[tuple[Any, ...]]]:
    """Rules by family, each as (priority, kind, argument)."""
    rules: dict[int, set[tuple[Any, ...]]] = {}
    for family in _FAMILIES:
        version = 4 if family == socket.AF_INET else 6
        chosen: set[tuple[Any, ...]] = {(90, "mark", MARK), (95, "table", TABLE), (99, "nop", 0)}
        chosen |= {(91, "from", str(net)) for net in subnets if net.version == version}
        chosen |= {(92, "iif", name) for name in devices}
        rules[family] = chosen
    return rules


def _rule_of(message: Any) -> tuple[Any, ...] | None:
    """One of our rules as (priority, kind, argument); None for everybody else's."""
    priority = message.get_attr("FRA_PRIORITY") or 0
    if not 90 <= priority <= 99 or message.get_attr("FRA_PROTOCOL") not in (PROTO, None):
        return None
    if priority == 90:
        return (90, "mark", message.get_attr("FRA_FWMARK"))
    if priority == 91:
        return (91, "from", f"{message.get_attr('FRA_SRC')}/{message['src_len']}")
    if priority == 92:
        return (92, "iif", message.get_attr("FRA_IIFNAME"))
    if priority == 95:
        return (95, "table", message.get_attr("FRA_TABLE"))
    return (99, "nop", 0) if priority == 99 else (priority, "unknown", 0)


def _rule_arguments(family: int, rule: tuple[Any, ...]) -> dict[str, Any]:
    priority, kind, argument = rule
    base: dict[str, Any] = {"family": family, "priority": priority, "protocol": PROTO}
    if kind == "mark":
        return {**base, "fwmark": argument, "fwmask": MARK_MASK, "action": _GOTO, "goto": 99}
    if kind == "from":
        net = ipaddress.ip_network(argument)
        return {**base, "src": str(net.network_address), "src_len": net.prefixlen, "table": TABLE}
    if kind == "iif":
        return {**base, "iifname": argument, "action": _GOTO, "goto": 99}
    if kind == "table":
        return {**base, "table": TABLE}
    return {**base, "action": _NOP}


def _network_of(message: Any) -> Network:
    kind = ipaddress.IPv4Network if message["family"] == socket.AF_INET else ipaddress.IPv6Network
    address = message.get_attr("RTA_DST")
    return kind(f"{address}/{message['dst_len']}") if address else kind((0, message["dst_len"]))


def _base(network: Network) -> dict[str, Any]:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return {"dst": str(network), "table": TABLE, "family": family}


def _told(what: str, change: Callable[..., Any], command: str, **arguments: Any) -> None:
    """Make a change; what somebody else removed at the same time is removed, another refusal is an error."""
    try:
        change(command, **arguments)
    except Exception as error:  # pyroute2 versions differ in the class; it carries the kernel's code
        code = getattr(error, "code", None)
        if code is None:
            raise
        if command == "del" and code in (errno.ESRCH, errno.ENOENT, errno.ENODEV):
            return
        raise WardmeshError(f"the kernel refused to {command} a {what}", why=os.strerror(code)) from error


class Routing:
    """Makes the kernel's rules and our table what they should be, by differences."""

    def __init__(self, ipr: Any) -> None:
        self._ipr = ipr
        self._made_as: dict[Network, tuple[int, int]] = {}  # scope and protocol of the routes last read

    def sync_rules(self, wanted: Mapping[int, set[tuple[Any, ...]]]) -> list[str]:
        """Add what is missing, remove what is stale.

        The landing place comes first and the look-up last: without the rule of marks before it WireGuard's
        own packets would go into the tunnel.
        """
        changes = []
        for family, rules in wanted.items():
            present = {rule for rule in map(_rule_of, self._ipr.get_rules(family=family)) if rule}
            for rule in sorted(rules - present, key=lambda item: (item[0] == 95, item[0] != 99, item)):
                _told(f"rule {rule[0]}", self._ipr.rule, "add", **_rule_arguments(family, rule))
                changes.append(f"rule {rule[0]} {rule[1]} {rule[2]}")
            for rule in sorted(present - rules, key=lambda item: (item[0] != 95, item[0] == 99, item)):
                _told(f"rule {rule[0]}", self._ipr.rule, "del", **_rule_arguments(family, rule))
                changes.append(f"rule {rule[0]} {rule[1]} {rule[2]} removed")
        return changes

    def present_routes(self) -> dict[Network, tuple[TunnelRoute, int]]:
        """Our table as it is: network to route and device index."""
        found = {}
        for family in _FAMILIES:
            for message in self._ipr.get_routes(family=family, table=TABLE):
                if message.get_attr("RTA_TABLE") != TABLE or message["type"] != 1:
                    continue
                network = _network_of(message)
                source = message.get_attr("RTA_PREFSRC")
                metrics = message.get_attr("RTA_METRICS")
                mtu = (metrics.get_attr("RTAX_MTU") or 0) if metrics is not None else 0
                route = TunnelRoute(network, ipaddress.ip_address(source) if source else None, mtu)
                found[network] = (route, message.get_attr("RTA_OIF"))
                self._made_as[network] = (message["scope"], message["proto"])
        return found

    def sync_routes(self, ifindex: int, wanted: Mapping[Network, TunnelRoute]) -> list[str]:
        """Replace what differs, remove what is stale."""
        present = self.present_routes()
        changes = []
        for network, route in wanted.items():
            if present.get(network) == (route, ifindex):
                continue
            arguments: dict[str, Any] = {**_base(network), "oif": ifindex, "proto": PROTO}
            if route.source:
                arguments["prefsrc"] = str(route.source)
            if route.mtu:
                arguments["metrics"] = {"mtu": route.mtu}
            _told(f"route {network}", self._ipr.route, "replace", **arguments)
            changes.append(f"route {network}")
        for network, (_route, index) in present.items():
            if network not in wanted:
                scope, proto = self._made_as[network]  # others' routes differ
                arguments = {**_base(network), "oif": index, "scope": scope, "proto": proto}
                _told(f"route {network}", self._ipr.route, "del", **arguments)
                changes.append(f"route {network} removed")
        return changes

    def teardown(self) -> list[str]:
        """Remove our rules and empty our table."""
        changes = self.sync_rules({family: set() for family in _FAMILIES})
        return changes + self.sync_routes(0, {})
