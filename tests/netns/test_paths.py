# SPDX-License-Identifier: Apache-2.0
"""The host's own addresses, and how it reaches another one past the tunnel."""

from __future__ import annotations

import ipaddress

import pytest
from tests.netns import agent, wire
from tests.netns.conftest import Mesh

from wardmesh.datapath.contract import MARK
from wardmesh.wireguard import devices

pytestmark = pytest.mark.netns


def own_addresses(hint: str) -> list[str]:
    return devices.node_addresses(agent.the().ipr, hint)


def path(address: str) -> tuple[str, str] | None:
    """Device and source address towards another host, past the tunnel."""
    ipr = agent.the().ipr
    found = devices.route_to(ipr, ipaddress.ip_address(address), MARK)
    if found is None:
        return None
    names = {link.ifindex: link.name for link in devices.links(ipr)}
    return names[found.ifindex], str(found.source)


def test_the_hinted_address_comes_first(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    assert first.call(own_addresses, "fd98::1") == ["fd98::1", "10.98.0.1"]
    assert first.call(own_addresses, "") == ["10.98.0.1", "fd98::1"]
    assert first.call(own_addresses, "not an address") == ["10.98.0.1", "fd98::1"]


def test_a_path_is_found_past_our_own_routes(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    assert wire.route_device(first, "10.98.0.2") == "wardmesh_wg0"
    assert first.call(path, "10.98.0.2") == ("eth0", "10.98.0.1")
    assert first.call(path, "fd98::2") == ("eth0", "fd98::1")
    assert first.call(path, "192.0.2.1") is None, "no route, no path"
