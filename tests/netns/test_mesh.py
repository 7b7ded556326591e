# SPDX-License-Identifier: Apache-2.0
"""Three members: what they say to each other is WireGuard on the wire, over both families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.netns import agent, forger, wire
from tests.netns.conftest import Mesh
from tests.netns.hosts import Host
from tests.waiting import wait_for

from wardmesh.model.fleetmap import Endpoint

pytestmark = pytest.mark.netns


def tables(host: Host) -> list[str]:
    """Rules, and the routes that are neither the kernel's own nor ordinary ones, as `ip` prints them."""
    lines = []
    for family in ("-4", "-6"):
        lines += host.run("ip", family, "rule").splitlines()
        lines += sorted(host.run("ip", family, "route", "show", "table", "all", "proto", "200").splitlines())
    return lines


@pytest.mark.parametrize("address", ["10.98.0.2", "fd98::2"])
def test_traffic_between_members_is_only_the_tunnels_on_the_wire(
    mesh: Mesh, address: str, tmp_path: Path
) -> None:
    first, second, _third = mesh.hosts
    recorded = tmp_path / "wire.pcap"
    with wire.capture(first, "eth0", recorded), wire.server(second, address):
        assert wire.ping(first, address)
        answer = wire.send(first, address)
    assert answer.split() == [address.replace("2", "1") if ":" in address else "10.98.0.1", "12000"]
    assert wire.packets(recorded, wire.PLAIN) == []
    assert len(wire.packets(recorded, "udp port 51871")) > 5
    assert b"secret-text" not in recorded.read_bytes()


def test_without_the_tunnel_the_capture_does_see_the_text(mesh: Mesh, tmp_path: Path) -> None:
    first, second, _third = mesh.hosts
    first.call(agent.teardown)
    second.call(agent.teardown)
    recorded = tmp_path / "wire.pcap"
    with wire.capture(first, "eth0", recorded), wire.server(second, "10.98.0.2"):
        wire.send(first, "10.98.0.2")
    assert wire.packets(recorded, wire.PLAIN)
    assert b"secret-text" in recorded.read_bytes()


def test_a_member_cannot_speak_in_anothers_name(mesh: Mesh) -> None:
    first, _second, third = mesh.hosts
    first.call(forger.listen, "10.98.0.1")
    third.call(forger.say, "10.98.0.2", "10.98.0.1", b"as node2")
    third.call(forger.say, "10.98.0.3", "10.98.0.1", b"as myself")
    assert first.call(forger.heard_until, b"as myself") == [("10.98.0.3", b"as myself")]


def test_what_was_overheard_is_worth_nothing_when_sent_again(mesh: Mesh) -> None:
    first, second, third = mesh.hosts
    first.call(forger.listen, "10.98.0.1")
    third.call(forger.say, "10.98.0.3", "10.98.0.1", b"once")
    assert first.call(forger.heard_until, b"once")
    messages = first.call(forger.overheard, "10.98.0.3")
    assert messages and not any(b"once" in message for message in messages)
    for host in (second, third):
        host.call(forger.again, "10.98.0.1", messages)
    third.call(forger.say, "10.98.0.3", "10.98.0.1", b"after")
    assert first.call(forger.heard_until, b"after") == [("10.98.0.3", b"after")]


def test_rules_and_routes_are_those_of_the_contract(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    for family in ("-4", "-6"):
        rules = [" ".join(line.split()) for line in first.run("ip", family, "rule").splitlines()]
        assert rules[1:5] == [
            "90: from all fwmark 0x1e00/0xff00 goto 99 proto 200",
            "92: from all iif eth0 goto 99 proto 200",
            "95: from all lookup 51871 proto 200",
            "99: from all nop proto 200",
        ], rules
    assert sorted(
        line.strip() for line in first.run("ip", "route", "show", "table", "51871").splitlines()
    ) == [
        "10.98.0.2 dev wardmesh_wg0 proto 200 scope link src 10.98.0.1",
        "10.98.0.3 dev wardmesh_wg0 proto 200 scope link src 10.98.0.1",
    ]
    sixth = first.run("ip", "-6", "route", "show", "table", "51871")
    assert "fd98::2 dev wardmesh_wg0 proto 200 src fd98::1" in sixth
    shown = first.run("ip", "-o", "address", "show", "wardmesh_wg0").splitlines()
    own = [line.split()[2:4] for line in shown]
    assert own == [["inet", "127.51.87.1/32"]], "the tunnel has no address that anybody could use"
    assert "mtu 1420" in first.run("ip", "link", "show", "wardmesh_wg0")


def test_a_pass_that_finds_everything_right_changes_nothing(mesh: Mesh) -> None:
    assert mesh.reconcile() == [[], [], []]


def endpoint_of(host: Host, key: str) -> Endpoint:
    """Where the host's device has that peer."""
    found = host.call(agent.state).peers[key].endpoint
    assert found is not None
    return found


def delete_peer(host: Host) -> None:
    key = next(iter(host.call(agent.state).peers))
    host.run("wg", "set", "wardmesh_wg0", "peer", key, "remove")


DAMAGES = {
    "a peer": (delete_peer, "peer node"),
    "a route": (
        lambda host: host.run("ip", "route", "del", "10.98.0.2", "table", "51871"),
        "route 10.98.0.2/32",
    ),
    "an IPv6 route": (
        lambda host: host.run("ip", "-6", "route", "del", "fd98::2", "table", "51871"),
        "route fd98::2/128",
    ),
    "a rule": (lambda host: host.run("ip", "rule", "del", "priority", "95"), "rule ipv4 95"),
    "the rule of marks": (lambda host: host.run("ip", "-6", "rule", "del", "priority", "90"), "rule ipv6 90"),
    "the end of the jumps": (lambda host: host.run("ip", "rule", "del", "priority", "99"), "rule ipv4 99"),
    "a flushed table": (
        lambda host: host.run("ip", "route", "flush", "table", "51871"),
        "route 10.98.0.3/32",
    ),
    "a foreign route in our table": (
        lambda host: host.run("ip", "route", "add", "10.98.0.77", "dev", "eth0", "table", "51871"),
        "route 10.98.0.77/32 removed",
    ),
    "the interface taken down": (lambda host: host.run("ip", "link", "set", "wardmesh_wg0", "down"), "up"),
    "the interface deleted": (lambda host: host.run("ip", "link", "del", "wardmesh_wg0"), "created"),
    "another MTU": (lambda host: host.run("ip", "link", "set", "wardmesh_wg0", "mtu", "1300"), "mtu 1420"),
    "another port": (lambda host: host.run("wg", "set", "wardmesh_wg0", "listen-port", "4444"), "port set"),
    "another mark": (lambda host: host.run("wg", "set", "wardmesh_wg0", "fwmark", "0"), "mark set"),
    "a stranger among the peers": (
        lambda host: host.run(
            "wg", "set", "wardmesh_wg0", "peer", "A" * 42 + "g=", "allowed-ips", "10.98.0.2/32"
        ),
        "removed",
    ),
    "rp_filter": (lambda host: host.sysctl("net/ipv4/conf/wardmesh_wg0/rp_filter", "1"), "rp_filter = 2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_somebody_changes_by_hand_is_repaired_and_told(mesh: Mesh, damage: str) -> None:
    first, second, _third = mesh.hosts
    change, told = DAMAGES[damage]
    before = tables(first)
    change(first)
    lines = first.call(agent.reconcile)
    assert any(told in line for line in lines), lines
    # a pass may find nothing to do while a device that was made anew still waits for its handshakes
    wait_for(lambda: not any(mesh.reconcile()) and tables(first) == before, "everything as before")
    wire.wait_for_ping(first, "10.98.0.2")
    wire.wait_for_ping(second, "fd98::1")


@pytest.mark.parametrize(
    ("family", "address", "back"), [("-4", "10.98.0.2", "10.98.0.1"), ("-6", "fd98::2", "fd98::1")]
)
def test_what_comes_by_the_tunnel_is_taken_while_the_way_back_is_outside(
    mesh: Mesh, family: str, address: str, back: str
) -> None:
    """As in prefer, where one side is a moment earlier: a route back elsewhere must not make it a martian."""
    first, second, _third = mesh.hosts
    second.run("ip", family, "route", "del", back, "table", "51871")
    assert wire.ping(first, address)
    mesh.converge()


def test_a_killed_wireguard_process_is_started_again(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    first.run(
        "sh",
        "-c",
        "for p in /proc/[0-9]*; do grep -q '^wireguard-go' $p/comm && "
        "[ $(readlink $p/ns/net) = $(readlink /proc/self/ns/net) ] && kill -9 ${p#/proc/}; done; true",
    )
    wait_for(
        lambda: not first.succeeds("ip", "link", "show", "wardmesh_wg0"), "the device goes with its process"
    )
    assert any("created" in line for line in first.call(agent.reconcile))
    mesh.converge()
    wire.wait_for_ping(first, "10.98.0.3")


def test_other_peoples_rules_and_routes_are_left_alone(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    first.run("ip", "rule", "add", "priority", "94", "from", "192.0.2.0/24", "lookup", "main")
    first.run("ip", "route", "add", "192.0.2.0/24", "dev", "eth0", "table", "77")
    assert first.call(agent.reconcile) == []
    assert "94:" in first.run("ip", "rule")
    first.run("ip", "rule", "del", "priority", "94")
    first.run("ip", "route", "flush", "table", "77")


def test_a_restarted_agent_touches_nothing(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    handshakes = {key: peer.last_handshake for key, peer in first.call(agent.state).peers.items()}
    first.call(agent.restart)
    assert first.call(agent.reconcile) == []
    assert {key: peer.last_handshake for key, peer in first.call(agent.state).peers.items()} == handshakes


def test_a_roamed_endpoint_is_not_fought(mesh: Mesh) -> None:
    first, second, _third = mesh.hosts
    key = mesh.facts[1].key
    second.run("wg", "set", "wardmesh_wg0", "listen-port", "4567")  # as a NAT would change it
    wire.wait_for_ping(second, "10.98.0.1")
    wait_for(lambda: endpoint_of(first, key).port == 4567, "the first host sees the new port")
    assert first.call(agent.reconcile) == []
    first.call(agent.restart)
    assert first.call(agent.reconcile) == []
    assert endpoint_of(first, key).port == 4567
    assert wire.ping(first, "10.98.0.2")


def test_a_new_endpoint_in_the_map_is_set(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    facts = [replace(fact, endpoint="fd98::2") if fact.name == "node2" else fact for fact in mesh.facts]
    first.call(agent.set_fleet, facts)
    assert first.call(agent.reconcile) == ["peer node2 changed"]
    assert endpoint_of(first, mesh.facts[1].key).host == "fd98::2"
    wire.wait_for_ping(first, "10.98.0.2")
    mesh.set_fleet()


def test_a_change_of_one_member_touches_that_one_only(mesh: Mesh) -> None:
    first, _second, third = mesh.hosts
    facts = [
        replace(fact, addresses=(*fact.addresses, "10.98.0.30")) if fact.name == "node3" else fact
        for fact in mesh.facts
    ]
    third.run("ip", "address", "add", "10.98.0.30/24", "dev", "eth0")
    before = first.call(agent.state).peers[mesh.facts[1].key]
    original, mesh.facts = mesh.facts, facts
    mesh.set_fleet(facts)
    assert first.call(agent.reconcile) == ["peer node3 changed", "route 10.98.0.30/32"]
    assert first.call(agent.state).peers[mesh.facts[1].key].last_handshake == before.last_handshake
    mesh.reconcile()
    assert wire.ping(first, "10.98.0.30")
    mesh.set_fleet(original)
    lines = first.call(agent.reconcile)
    assert lines == ["peer node3 changed", "route 10.98.0.30/32 removed"]
    third.run("ip", "address", "del", "10.98.0.30/24", "dev", "eth0")


def test_an_address_that_moves_to_another_member_follows_it(mesh: Mesh) -> None:
    first, second, third = mesh.hosts
    original = mesh.facts
    with_extra = [
        replace(fact, addresses=(*fact.addresses, "10.98.0.40")) if fact.name == "node2" else fact
        for fact in original
    ]
    second.run("ip", "address", "add", "10.98.0.40/24", "dev", "eth0")
    mesh.set_fleet(with_extra)
    mesh.reconcile()
    assert wire.ping(first, "10.98.0.40")
    second.run("ip", "address", "del", "10.98.0.40/24", "dev", "eth0")
    third.run("ip", "address", "add", "10.98.0.40/24", "dev", "eth0")
    mesh.set_fleet(
        [
            replace(fact, addresses=(*fact.addresses, "10.98.0.40")) if fact.name == "node3" else fact
            for fact in original
        ]
    )
    mesh.reconcile()
    wire.wait_for_ping(first, "10.98.0.40")
    third.run("ip", "address", "del", "10.98.0.40/24", "dev", "eth0")
    mesh.set_fleet(original)


def test_strict_reverse_path_filters_pass_the_tunnels_packets(mesh: Mesh, tmp_path: Path) -> None:
    """The guard marks what comes from members; here nftables does, which is before the route check too."""
    first, second, _third = mesh.hosts
    for host in (first, second):
        for device in ("all", "eth0"):
            host.sysctl(f"net/ipv4/conf/{device}/rp_filter", "1")
        host.run(
            "nft",
            "add table ip t; add chain ip t c { type filter hook prerouting priority raw; }; "
            "add rule ip t c iif eth0 udp dport 51871 meta mark set 0x1e00",
        )
    recorded = tmp_path / "wire.pcap"
    with wire.capture(first, "eth0", recorded), wire.server(second, "10.98.0.2"):
        assert wire.send(first, "10.98.0.2", 20000).split()[1] == "240000"
    assert wire.packets(recorded, wire.PLAIN) == []
    second.run("nft", "delete", "table", "ip", "t")
    assert not wire.ping(first, "10.98.0.2"), "without the marks strict mode must eat the outer packets"
    for host in (first, second):
        host.run("nft", "flush", "ruleset")
        for device in ("all", "eth0"):
            host.sysctl(f"net/ipv4/conf/{device}/rp_filter", "0")


def test_teardown_leaves_nothing(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    lines = first.call(agent.teardown)
    assert "interface wardmesh_wg0 removed" in lines
    assert not [line for line in tables(first) if "51871" in line or "proto 200" in line]
    assert [line.split(":")[0] for line in first.run("ip", "rule").splitlines()] == ["0", "32766", "32767"]
    assert not first.succeeds("ip", "link", "show", "wardmesh_wg0")
    assert first.run("cat", "/proc/sys/net/ipv4/conf/eth0/src_valid_mark").strip() == "0"
    assert first.run("sh", "-c", "ls -A /var/run/wireguard 2>/dev/null; true") == ""
    assert first.call(agent.teardown) == []
