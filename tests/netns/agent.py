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

from pyroute2 import IPRoute

from wardmesh.datapath.contract import MARK
from wardmesh.host.paths import Paths
from wardmesh.host.sysctl import Sysctls
from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import Address, Endpoint, FleetMap, Member, Network
from wardmesh.wireguard import devices, keys
from wardmesh.wireguard.backend import DeviceState
from wardmesh.wireguard.liveness import Liveness
from wardmesh.wireguard.peers import desired_peers
from wardmesh.wireguard.routing import Routing, TunnelRoute, desired_rules
from wardmesh.wireguard.tunnel import OVERHEAD, Tunnel
from wardmesh.wireguard.userspace import UserspaceBackend

INTERFACE = "wardmesh_wg0"


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

    def __init__(self, name: str, scratch: Path, starter: ProcessStarter) -> None:
        self.name = name
        self.paths = Paths(scratch)
        self.starter = starter
        self.ipr: Any = IPRoute()
        self.tunnel = Tunnel(UserspaceBackend(starter), INTERFACE, self.paths.key)
        self.routing = Routing(self.ipr)
        self.sysctls = Sysctls(self.paths.sysctls)
        self.liveness = Liveness()
        self.fleet = fleet_of([])

    def reconcile(self, sealed: bool = False) -> list[str]:
        """Device, peers, routes of those that are up (all when sealed), rules, sysctls."""
        own = next(member for member in self.fleet.members if member.name == self.name)
        others = [member for member in self.fleet.members if member.name != self.name]
        found = devices.links(self.ipr)
        guarded = [link.name for link in devices.guarded(found, ())]
        mtus = {link.ifindex: link.mtu for link in found}
        paths = {member.name: devices.route_to(self.ipr, member.addresses[0], MARK) for member in others}
        size = max([mtus[path.ifindex] for path in paths.values() if path] or [1500]) - OVERHEAD
        lines = self.tunnel.reconcile_device(self.ipr, own.endpoint.port, size)
        names = {member.key: member.name for member in others}
        lines += self.tunnel.reconcile_peers(desired_peers(self.fleet, own.key), names)
        state, now = self.tunnel.state(), time.time()
        self.liveness.observe(now, state.peers)
        due = self.liveness.to_provoke(now, state.peers)
        self.tunnel.backend.provoke(INTERFACE, [state.peers[key] for key in due])
        for name, value in [(INTERFACE, "rp_filter=2")] + [
            (device, "src_valid_mark=1") for device in guarded
        ]:
            knob, _sign, wanted = value.partition("=")
            if self.sysctls.ensure(f"net/ipv4/conf/{name}/{knob}", wanted):
                lines.append(f"sysctl {name} {knob} = {wanted}")
        lines += self.routing.sync_rules(desired_rules(own.allowed_ips, guarded))
        wanted_routes: dict[Network, TunnelRoute] = {}
        for member in others:
            if sealed or self.liveness.up(member.key):
                path = paths[member.name]
                narrow = mtus[path.ifindex] - OVERHEAD if path is not None else size
                for network in member.networks():
                    mtu = narrow if narrow < size else 0
                    wanted_routes[network] = TunnelRoute(network, source_of(own, network), mtu)
        return lines + self.routing.sync_routes(self.tunnel.index(self.ipr), wanted_routes)

    def teardown(self) -> list[str]:
        removed = self.routing.teardown()
        if self.tunnel.index(self.ipr):
            self.tunnel.backend.remove(INTERFACE)
            removed.append(f"interface {INTERFACE} removed")
        return removed + self.sysctls.restore()


def source_of(own: Member, network: Network) -> Address | None:
    """The first own address of the network's family."""
    return next((address for address in own.addresses if address.version == network.version), None)


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
    _agent = Agent(name, Path(scratch), ProcessStarter())
    return str(keys.load_or_create(_agent.paths.key, dry_run=False).public_key)


def restart() -> None:
    """Forget everything that is not in the kernel or on the disk, as a restarted agent has."""
    global _agent
    old = the()
    _agent = Agent(old.name, old.paths.root, old.starter)  # its process is a unit of its own elsewhere
    _agent.fleet = old.fleet


def set_fleet(facts: list[MemberFacts]) -> None:
    the().fleet = fleet_of(facts)


def reconcile(sealed: bool = False) -> list[str]:
    return the().reconcile(sealed)


def teardown() -> list[str]:
    return the().teardown()


def state() -> DeviceState:
    return the().tunnel.state()


def up_count() -> int:
    """How many tunnels are up after another pass."""
    agent = the()
    agent.reconcile()
    return sum(agent.liveness.up(member.key) for member in agent.fleet.members if member.name != agent.name)
