# SPDX-License-Identifier: Apache-2.0
"""Paths of different MTU, the host's own addresses, and what the monitor tells."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns import wire
from tests.netns.conftest import Mesh, boot, require_tools
from tests.netns.hosts import Host, hosts

from wardmesh.host.netlink import Netlink
from wardmesh.wireguard import devices, events

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def jumbo() -> Iterator[Mesh]:
    """Two members with jumbo frames and one without; the first two know that the way there is narrower."""
    require_tools()
    with hosts(3, mtus=(9000, 9000, 1500)) as made:
        for host in made[:2]:
            host.run("ip", "route", "add", "10.98.0.3", "dev", "eth0", "mtu", "1500")
        running = boot(made)
        running.converge()
        yield running


def test_each_path_gets_its_own_mtu(jumbo: Mesh) -> None:
    first, _second, third = jumbo.hosts
    assert "mtu 8920" in first.run("ip", "link", "show", "wardmesh_wg0")
    routes = first.run("ip", "route", "show", "table", "51871").splitlines()
    assert any("10.98.0.3" in route and "mtu 1420" in route for route in routes), routes
    assert any("10.98.0.2" in route and "mtu" not in route for route in routes), routes
    assert "mtu 1420" in third.run("ip", "link", "show", "wardmesh_wg0")


@pytest.mark.parametrize("address", ["10.98.0.2", "10.98.0.3"])
def test_a_large_transfer_neither_stalls_nor_fragments(jumbo: Mesh, address: str, tmp_path: Path) -> None:
    first = jumbo.hosts[0]
    there = jumbo.hosts[int(address[-1]) - 1]
    recorded = tmp_path / "wire.pcap"
    with wire.capture(first, "eth0", recorded), wire.server(there, address):
        assert wire.send(first, address, 100_000).split()[1] == "1200000"
    assert wire.packets(recorded, "ip[6:2] & 0x3fff != 0") == []
    assert wire.packets(recorded, wire.PLAIN) == []


def own_addresses(hint: str) -> list[str]:
    with Netlink() as link:
        return list(map(str, devices.node_addresses(link, hint)))


def path(address: str) -> devices.Path | None:
    with Netlink() as link:
        return devices.path_to(link, ipaddress.ip_address(address))


def test_the_hinted_address_comes_first(jumbo: Mesh) -> None:
    first = jumbo.hosts[0]
    assert first.call(own_addresses, "fd98::1") == ["fd98::1", "10.98.0.1"]
    assert first.call(own_addresses, "") == ["10.98.0.1", "fd98::1"]
    assert first.call(own_addresses, "not an address") == ["10.98.0.1", "fd98::1"]


def test_a_path_is_found_past_our_own_routes(jumbo: Mesh) -> None:
    found = jumbo.hosts[0].call(path, "10.98.0.2")
    assert wire.route_device(jumbo.hosts[0], "10.98.0.2") == "wardmesh_wg0"
    assert found is not None
    assert (found.device, found.mtu, str(found.source)) == ("eth0", 9000, "10.98.0.1")
    narrow = jumbo.hosts[0].call(path, "10.98.0.3")
    assert narrow is not None
    assert narrow.mtu == 1500
    assert jumbo.hosts[0].call(path, "192.0.2.1") is None, "no route, no path"
    assert jumbo.hosts[0].call(path, "10.98.0.1") is None, "the host itself is no path"


_monitor: events.Monitor | None = None


def watch() -> None:
    global _monitor
    _monitor = events.Monitor()


def seen(seconds: float = 0.0) -> frozenset[str]:
    """What the monitor saw; with seconds it waits for the first event."""
    if _monitor is None:
        raise RuntimeError("watch comes first")
    return _monitor.wait(seconds) if seconds else _monitor.drain()


CHANGES = {
    "link": ("ip", "link", "add", "extra0", "type", "veth", "peer", "name", "extra1"),
    "address": ("ip", "address", "add", "192.0.2.9/32", "dev", "lo"),
    "route": ("ip", "route", "add", "192.0.2.128/25", "dev", "eth0"),
    "rule": ("ip", "rule", "add", "priority", "500", "lookup", "main"),
    "filter": ("tc", "qdisc", "add", "dev", "eth0", "clsact"),
}


def test_the_monitor_tells_what_kind_of_thing_changed(jumbo: Mesh) -> None:
    second: Host = jumbo.hosts[1]
    second.call(watch)
    for kind, command in CHANGES.items():
        second.call(seen)
        second.run(*command)
        assert kind in second.call(seen, 5.0)
    second.call(seen)
    second.run(
        "tc", "filter", "add", "dev", "eth0", "ingress", "protocol", "ip", "u32", "match", "u32", "0", "0"
    )
    assert "filter" in second.call(seen, 5.0)
    assert second.call(seen) == frozenset()
