# SPDX-License-Identifier: Apache-2.0
"""Two clusters behind NAT routers, one of which translates ports: a tunnel both ways, nothing plain between.

Site a forwards the tunnel's port to its host. Site b forwards nothing, and what its host sends leaves from
another port: a can only answer where WireGuard met b. Each side knows the other by clustermesh.config alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.netns import agent, wire
from tests.netns.conftest import require_tools
from tests.netns.hosts import Host, cable, spawned
from tests.waiting import wait_for

from wardmesh.discovery.clusters import read_clusters
from wardmesh.discovery.join import join
from wardmesh.model.config import Cluster, parse_config
from wardmesh.model.fleetmap import FleetMap

pytestmark = pytest.mark.netns
A, B = Cluster("aws-cluster", 1), Cluster("ali-cluster", 2)
AT_A, AT_B = "10.0.1.10", "172.16.1.10"
PUBLIC_A, PUBLIC_B = "203.0.113.1", "203.0.113.2"
ROUTER_A = """
table ip nat {
  chain in { type nat hook prerouting priority -100; iifname "wan" udp dport 51871 dnat to 10.0.1.10; }
  chain out { type nat hook postrouting priority 100; oifname "wan" masquerade; }
}
"""
ROUTER_B = """
table ip nat {
  chain out {
    type nat hook postrouting priority 100
    oifname "wan" meta l4proto udp masquerade to :PORTS
    oifname "wan" masquerade
  }
}
"""


@dataclass
class Sites:
    """The host and the router of each site."""

    a: Host
    router_a: Host
    router_b: Host
    b: Host

    def translate(self, ports: str) -> None:
        """Router b gives out these source ports, and forgets what it gave before."""
        self.router_b.run(
            "sh", "-c", f"nft flush ruleset; nft -f - <<'END'\n{ROUTER_B.replace('PORTS', ports)}END"
        )

    def reconcile(self) -> list[str]:
        return [line for host in (self.a, self.b) for line in host.call(agent.reconcile, True)]

    def endpoint(self) -> str:
        """Where a sends what is for b."""
        peer = next(iter(self.a.call(agent.state).peers.values()))
        return str(peer.endpoint)


def fleet_of(own: Cluster, name: str, key: str, address: str, other: str) -> FleetMap:
    """A fleet of one member, joined with the other site as the configuration has it."""
    fact = agent.MemberFacts(name, key, (address,))
    plain = dataclasses.replace(agent.fleet_of([fact]), cluster=own)
    text = f"cluster: {{name: {own.name}, id: {own.id}}}\nclustermesh: {{config: {{clusters: [{other}]}}}}\n"
    found, rows = join(plain, read_clusters(parse_config(text, "test")), {}, 1000)
    assert rows[0].refused == 0
    return found


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    """Both sites, as their operators set them up."""
    require_tools()
    with spawned("a", "router-a", "router-b", "b") as (a, router_a, router_b, b):
        cable(a, "eth0", f"{AT_A}/24", router_a, "lan", "10.0.1.1/24")
        cable(b, "eth0", f"{AT_B}/24", router_b, "lan", "172.16.1.1/24")
        cable(router_a, "wan", f"{PUBLIC_A}/24", router_b, "wan", f"{PUBLIC_B}/24")
        a.run("ip", "route", "add", "default", "via", "10.0.1.1")
        b.run("ip", "route", "add", "default", "via", "172.16.1.1")
        for router in (router_a, router_b):
            router.sysctl("net/ipv4/ip_forward", "1")
        router_a.run("sh", "-c", f"nft -f - <<'END'\n{ROUTER_A}END")
        made = Sites(a, router_a, router_b, b)
        made.translate("40000-40099")
        keys = [host.call(agent.boot, name, str(host.scratch)) for name, host in (("a1", a), ("b1", b))]
        for_b = f"{{name: a1, address: {AT_A}, key: '{keys[0]}', endpoint: '{PUBLIC_A}:51871', keepalive: 1}}"
        for_a = f"{{name: b1, address: {AT_B}, publicKey: '{keys[1]}', endpoint: '{PUBLIC_B}:51871'}}"
        a.call(
            agent.set_map, fleet_of(A, "a1", keys[0], AT_A, f"{{name: {B.name}, id: 2, nodes: [{for_a}]}}")
        )
        b.call(
            agent.set_map, fleet_of(B, "b1", keys[1], AT_B, f"{{name: {A.name}, id: 1, nodes: [{for_b}]}}")
        )
        wait_for(lambda: [host.call(agent.up_count) for host in (a, b)] == [1, 1], "both tunnels come up", 40)
        wait_for(lambda: not made.reconcile(), "a pass changes nothing", 20)
        yield made


def test_traffic_passes_both_ways_and_none_of_it_is_plain_between_the_sites(
    sites: Sites, tmp_path: Path
) -> None:
    recorded = tmp_path / "wan.pcap"
    with wire.capture(sites.router_a, "wan", recorded):
        assert wire.ping(sites.a, AT_B)
        assert wire.ping(sites.b, AT_A)
        with wire.server(sites.a, AT_A):
            assert wire.send(sites.b, AT_A).split() == [AT_B, "12000"], "the source address is the host's own"
        with wire.server(sites.b, AT_B):
            assert wire.send(sites.a, AT_B).split() == [AT_A, "12000"]
    between = f"udp and host {PUBLIC_A} and host {PUBLIC_B} and port 51871 and portrange 40000-40099"
    assert wire.packets(recorded, between)
    assert wire.packets(recorded, f"not arp and not ip6 multicast and not icmp6 and not ({between})") == []
    assert b"secret-text" not in recorded.read_bytes()


def test_an_endpoint_that_wireguard_learned_stays(sites: Sites) -> None:
    learned = sites.endpoint()
    assert learned.startswith(f"{PUBLIC_B}:400"), "the configured one is no way in"
    sites.a.call(agent.restart)
    assert sites.reconcile() == []
    assert sites.endpoint() == learned


def test_another_port_of_the_router_is_followed(sites: Sites) -> None:
    before = sites.endpoint()
    sites.translate("41000-41099")
    sites.router_b.run("ip", "link", "set", "wan", "down")  # with the link go its translations
    sites.router_b.run("ip", "link", "set", "wan", "up")
    wait_for(lambda: sites.endpoint().startswith(f"{PUBLIC_B}:410"), f"a follows from {before}", 30)
    assert sites.reconcile() == []
    assert wire.ping(sites.a, AT_B)
