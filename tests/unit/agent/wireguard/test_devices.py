# SPDX-License-Identifier: Apache-2.0
"""Which devices are guarded, in a table."""

from __future__ import annotations

import ipaddress

import pytest

from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.devices import guarded_devices, missing_devices, require_devices
from wardmesh.wireguard.links import Link


def device(
    index: int, name: str, *addresses: str, kind: str = "", master: int = 0, loopback: bool = False
) -> Link:
    found = tuple(map(ipaddress.ip_address, addresses))
    return Link(index, name, 1500, True, True, loopback, kind, master, found)


LO = device(1, "lo", "192.0.2.55", loopback=True)
ETH0 = device(2, "eth0", "10.0.0.1")
HOSTS: dict[str, tuple[list[Link], set[int], list[str]]] = {
    "one card": ([LO, ETH0], {2}, ["eth0"]),
    "a card without an address": ([LO, ETH0, device(3, "eth1")], {2}, ["eth0", "eth1"]),
    "a VLAN without an address": ([ETH0, device(3, "eth0.7", kind="vlan")], {2}, ["eth0", "eth0.7"]),
    "ports of a bond": (
        [
            device(2, "eth0", master=4),
            device(3, "eth1", master=4),
            device(4, "bond0", "10.0.0.1", kind="bond"),
        ],
        {4},
        ["bond0"],
    ),
    "a machine's tap without an address": ([ETH0, device(3, "tap1", kind="tun")], {2}, ["eth0"]),
    "two cards and a VLAN": (
        [ETH0, device(3, "eth1", "10.1.0.1"), device(4, "eth0.7", "10.7.0.1", kind="vlan")],
        {2},
        ["eth0", "eth1", "eth0.7"],
    ),
    "our own tunnel": ([ETH0, device(9, "wardmesh_wg0", "10.9.0.1", kind="wireguard")], {2}, ["eth0"]),
    "another VPN": ([ETH0, device(9, "tun0", "10.9.0.1", kind="tun")], {2}, ["eth0", "tun0"]),
    "a container's own card": ([LO, device(2, "host0", "10.0.0.1", kind="veth")], set(), ["host0"]),
    "Docker": (
        [ETH0, device(3, "docker0", "172.17.0.1", kind="bridge"), device(4, "veth1", kind="veth", master=3)],
        {2},
        ["eth0"],
    ),
    "a network of Docker's": (
        [ETH0, device(3, "br-0123456789ab", "172.18.0.1", kind="bridge")],
        {2},
        ["eth0"],
    ),
    "a bridge of machines": (
        [ETH0, device(3, "vmbr1", "10.3.0.1", kind="bridge"), device(4, "tap1", kind="tun", master=3)],
        {2},
        ["eth0"],
    ),
    "a bridge over a card": (
        [device(2, "eth0", master=3), device(3, "br0", "10.0.0.1", kind="bridge")],
        {3},
        ["br0"],
    ),
    "a bridge over a second card": (
        [ETH0, device(3, "br1", "10.3.0.1", kind="bridge"), device(4, "eth1", master=3)],
        {2},
        ["eth0", "br1"],
    ),
    "a bridge of containers with the default route": (
        [device(3, "br0", "10.0.0.1", kind="bridge"), device(4, "veth1", kind="veth", master=3)],
        {3},
        ["br0"],
    ),
    "addresses of services": ([ETH0, device(3, "kube-ipvs0", "10.96.0.1", kind="dummy")], {2}, ["eth0"]),
}


@pytest.mark.parametrize("case", HOSTS)
def test_detected_devices(case: str) -> None:
    links, defaults, expected = HOSTS[case]
    assert [link.name for link in guarded_devices(links, (), frozenset(defaults))] == expected


def test_configured_devices_are_taken_as_they_are() -> None:
    links = [LO, ETH0, device(3, "docker0", "172.17.0.1", kind="bridge")]
    assert [link.name for link in guarded_devices(links, ("docker0", "eth7"), frozenset({2}))] == ["docker0"]
    assert missing_devices(links, ("docker0", "eth7")) == ["eth7"]


def test_a_list_of_devices_of_which_none_exists_is_an_error() -> None:
    require_devices([ETH0], ())
    require_devices([ETH0], ("eth0", "eth7"))
    with pytest.raises(WardmeshError, match="no such device") as caught:
        require_devices([LO, ETH0], ("eth7",))
    assert "eth7" in str(caught.value)
    assert "the host has lo, eth0" in str(caught.value)
