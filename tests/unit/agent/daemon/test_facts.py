# SPDX-License-Identifier: Apache-2.0
"""What counts for a digest and what does not; each thing that somebody could change by hand shows."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from tests.fleets import numbered

from wardmesh.daemon import facts
from wardmesh.daemon.desired import guard_entries, mesh_of
from wardmesh.daemon.firewall_tables import host_tables
from wardmesh.daemon.state import STRICT, ModeState
from wardmesh.datapath.fw_held import Settings, policy_facts
from wardmesh.datapath.fw_tables import Peer
from wardmesh.model.fleetmap import Endpoint
from wardmesh.policy.files import parse_policies
from wardmesh.wireguard.backend import PeerState
from wardmesh.wireguard.routes import LOOKUP, Route, Rule

FLEET = numbered(3, 2)
MESH = mesh_of(FLEET, FLEET.members[0])
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: db}
spec:
  nodeSelector: {}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a1}}]
    toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
"""
TABLES = host_tables(parse_policies([("p.yaml", POLICY)], "test"), FLEET, "h1")
SETTINGS = Settings(False, 51871, frozenset({(1, 6, 22)}), frozenset({(1, 6, 4240)}))


def device() -> dict[str, PeerState]:
    """The peers as the device has them while everything works: met, roamed, with counters."""
    roamed = Endpoint("203.0.113.9", 4711)
    return {
        peer.key: PeerState(peer.key, roamed, peer.allowed_ips, peer.keepalive, 1000.5, 17, 18)
        for peer in MESH.peers.values()
    }


def peers(held: dict[str, PeerState]) -> dict[str, str]:
    return facts.peer_facts(held.values(), MESH.names)


WANTED = facts.peer_facts(MESH.peers.values(), MESH.names)


def test_what_wireguard_learns_is_no_drift() -> None:
    assert peers(device()) == WANTED


@pytest.mark.parametrize("change", ["gone", "stranger", "networks", "keepalive"])
def test_each_change_of_a_peer_shows(change: str) -> None:
    held = device()
    key = next(iter(held))
    if change == "gone":
        del held[key]
    elif change == "stranger":
        held["x" * 44] = replace(held[key], key="x" * 44)
    elif change == "networks":
        held[key] = replace(held[key], allowed_ips=frozenset({ipaddress.ip_network("0.0.0.0/0")}))
    else:
        held[key] = replace(held[key], keepalive=25)
    assert peers(held) != WANTED


def test_who_is_sealed_shows() -> None:
    sealed = ModeState(STRICT, frozenset({"h2", "h3"}))
    both, one = (
        facts.entry_facts(guard_entries(MESH, state), [], 51871)
        for state in (sealed, replace(sealed, sealed=frozenset({"h2"})))
    )
    assert {key for key in both if both[key] != one[key]} == {"10.0.0.3/32"}
    assert both["10.0.0.3/32"].startswith("member+strict identity ")
    assert facts.entry_facts({}, [(6, 22)], 51871)["exception 6/22"] == "passes"


@pytest.mark.parametrize(
    "change", ["verdict", "identity", "peer", "world", "classes", "off", "audit", "failsafe"]
)
def test_each_change_of_the_policy_in_the_kernel_shows(change: str) -> None:
    tables, settings = TABLES, SETTINGS
    network = ipaddress.ip_network("10.0.0.2/32")
    held = tables.peers[network]
    other = (b"\xff" * len(held.cells[0]), held.cells[1])
    if change == "verdict":
        tables = replace(tables, peers={**tables.peers, network: Peer(held.identity, other)})
    elif change == "identity":
        tables = replace(tables, peers={**tables.peers, network: Peer(held.identity + 1, held.cells)})
    elif change == "peer":
        tables = replace(tables, peers={net: peer for net, peer in tables.peers.items() if net != network})
    elif change == "world":
        tables = replace(tables, world4=other)
    elif change == "classes":
        tables = replace(tables, classes=(bytes(len(tables.classes[0])), *tables.classes[1:]))
    elif change == "off":
        tables = replace(tables, enforced=False)
    elif change == "audit":
        settings = replace(settings, audit=True)
    else:
        settings = replace(settings, failsafe=frozenset({(1, 6, 22), (1, 6, 23)}))
    assert policy_facts(tables, settings) != policy_facts(TABLES, SETTINGS)
    assert policy_facts(TABLES, SETTINGS) == policy_facts(TABLES, SETTINGS)


def test_routes_and_rules() -> None:
    network, own = ipaddress.ip_network("10.0.0.2/32"), ipaddress.ip_address("10.0.0.1")
    route = Route(network, own)
    wanted = facts.route_facts([route])
    devices = {3: "eth0", 7: "wardmesh_wg0", 8: "wardmesh_wg1"}
    for ifindex in (7, 8):  # while keys rotate there are two
        assert facts.found_routes([(route, ifindex, True)], devices) == wanted
    for row in [(route, 3, True), (route, 7, False), (replace(route, mtu=1280), 7, True), (route, 99, True)]:
        assert facts.found_routes([row], devices) != wanted
    rule = Rule(4, LOOKUP)
    assert facts.rule_facts([(rule, True)]) != facts.rule_facts([(rule, False)])


def test_a_device_that_is_not_there_differs_in_everything() -> None:
    assert facts.found_device(None, up=False) == {}
    assert facts.wanted_device(51871) == {"listen port": "51871", "mark": "0x1e00", "state": "up"}
