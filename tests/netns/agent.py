# SPDX-License-Identifier: Apache-2.0
"""The least that drives the wireguard room as the daemon does; runs inside a host of hosts.py."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardmesh.host.netlink import Netlink
from wardmesh.host.paths import Paths
from wardmesh.host.sysctl import Sysctls
from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import Endpoint, FleetMap, Member
from wardmesh.wireguard import devices, keys, liveness, mtu, routes
from wardmesh.wireguard.backend import DeviceState
from wardmesh.wireguard.links import find_link, read_links
from wardmesh.wireguard.mark import INTERFACE
from wardmesh.wireguard.peers import desired_peers
from wardmesh.wireguard.routing import Routing
from wardmesh.wireguard.sysctls import reconcile_sysctls
from wardmesh.wireguard.tunnel import Tunnel, TunnelDesired
from wardmesh.wireguard.userspace import UserspaceBackend


class ProcessStarter:
    """wireguard-go as a child, where no systemd is."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, ifname: str) -> None:
        self.stop(ifname)
        self._children[ifname] = subprocess.Popen(
            ["wireguard-go", "-f", ifname], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self, ifname: str) -> None:
        child = self._children.pop(ifname, None)
        if child is not None:
            child.send_signal(signal.SIGTERM)
            child.wait(10)


@dataclass(frozen=True)
class MemberFacts:
    """What a host registers; endpoint and allowed networks as an operator would add them."""

    name: str
    key: str
    addresses: tuple[str, ...]
    endpoint: str = ""
    port: int = 51871
    allowed: tuple[str, ...] = ()
    keepalive: int = 0


def fleet_of(facts: list[MemberFacts]) -> FleetMap:
    """A map without the wire form, which the model's tests cover."""
    members = tuple(
        Member(
            fact.name,
            fact.key,
            tuple(map(ipaddress.ip_address, fact.addresses)),
            Endpoint(fact.endpoint or fact.addresses[0], fact.port),
            fact.keepalive,
            tuple(map(ipaddress.ip_network, fact.allowed)),
        )
        for fact in sorted(facts, key=lambda fact: fact.name)
    )
    return FleetMap(1, Cluster(), members, "sha256:test")


class Agent:
    """One pass after the other over the real modules."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        self.paths = Paths(scratch)
        self.tunnel = Tunnel(UserspaceBackend(ProcessStarter()))
        self.routing = Routing()
        self.sysctls = Sysctls(self.paths.sysctls)
        self.liveness = liveness.Liveness()
        self.fleet = fleet_of([])
        self._peers: dict[str, Any] = {}

    def set_fleet(self, facts: list[MemberFacts]) -> None:
        self.set_map(fleet_of(facts))

    def set_map(self, fleet: FleetMap) -> None:
        self.fleet = fleet
        self._peers = desired_peers(self.fleet, self.name)

    def reconcile(self, sealed: bool = False) -> list[str]:
        """Peers, routes of those that are up (all when sealed), rules, sysctls."""
        own = next(member for member in self.fleet.members if member.name == self.name)
        others = [member for member in self.fleet.members if member.name != self.name]
        with Netlink() as link:
            links = read_links(link)
            guarded = devices.guarded_devices(links, (), devices.default_devices(link))
            paths = devices.paths_to(link, routes.addresses_to_look_up(others))
        used = [path.mtu for path in paths.values() if path is not None]
        size = mtu.interface_mtu(used, None)
        lost = self.liveness.keys(liveness.DOWN)
        names = {member.key: member.name for member in others}
        lines = self.tunnel.reconcile(
            TunnelDesired(keys.load_private(self.paths), own.endpoint.port, size, self._peers, names, lost)
        )
        self.liveness.observe(self.tunnel.state.peers, time.monotonic(), time.time())
        waking = self.liveness.to_wake(time.monotonic())
        if waking:
            self.tunnel.provoke(waking)
        guarded_names = [item.name for item in guarded]
        lines += reconcile_sysctls(self.sysctls, guarded_names)
        there = [member for member in others if sealed or self.liveness.status(member.key) == liveness.UP]
        with Netlink() as link:
            device = find_link(link, INTERFACE)
        desired = routes.RoutingDesired(
            device.ifindex if device is not None else 0,
            routes.desired_routes(there, own, paths, size),
            routes.desired_rules(own.allowed_ips, guarded_names),
        )
        return lines + self.routing.reconcile(desired)

    def teardown(self) -> list[str]:
        return self.routing.teardown() + self.tunnel.teardown() + self.sysctls.restore()


_agent: Agent | None = None


def the() -> Agent:
    """The agent of this host."""
    if _agent is None:
        raise RuntimeError("boot comes first")
    return _agent


def boot(name: str, scratch: str) -> str:
    """Make the host's agent; its public key."""
    global _agent
    os.umask(0o022)
    _agent = Agent(name, Path(scratch))
    return str(keys.load_or_create(_agent.paths, dry_run=False).public_key)


def restart() -> None:
    """Forget everything that is not in the kernel or on the disk, as a restarted agent has."""
    global _agent
    old = the()
    _agent = Agent(old.name, old.paths.root)
    _agent.tunnel.backend = old.tunnel.backend  # the child's parent; a unit of its own elsewhere
    _agent.fleet, _agent._peers = old.fleet, old._peers


def set_fleet(facts: list[MemberFacts]) -> None:
    the().set_fleet(facts)


def set_map(fleet: FleetMap) -> None:
    the().set_map(fleet)


def reconcile(sealed: bool = False) -> list[str]:
    return the().reconcile(sealed)


def teardown() -> list[str]:
    return the().teardown()


def state() -> DeviceState:
    return the().tunnel.refresh()


def up_count() -> int:
    """How many tunnels are up after another pass."""
    the().reconcile()
    return len(the().liveness.keys(liveness.UP))
