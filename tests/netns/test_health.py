# SPDX-License-Identifier: Apache-2.0
"""Checks of the peers over real tunnels: who is there, who is not, and how much is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.netns import checks
from tests.netns.conftest import Mesh
from tests.netns.hosts import Host
from tests.waiting import wait_for

from wardmesh.health.prober import DEADLINE
from wardmesh.health.record import FAILURES

pytestmark = pytest.mark.netns
# A check begins every second, and one that fails takes its whole time; all hosts share two cores.
NOTICED = FAILURES * (checks.INTERVAL + DEADLINE) + 15
ASK = """
import socket, sys
link = socket.create_connection((sys.argv[1], 4240), timeout=5)
try:
    link.sendall(b"GET /hello HTTP/1.1\\r\\n\\r\\n"); print(link.recv(100).decode())
except ConnectionError:
    print("closed")
"""


@pytest.fixture
def checked(mesh: Mesh) -> Iterator[Mesh]:
    for host in mesh.hosts:
        host.call(checks.start, host.name, mesh.facts)
    yield mesh
    for host in mesh.hosts:
        host.call(checks.stop)


def states(host: Host) -> dict[str, str]:
    return {name: row["state"] for name, row in host.call(checks.rows).items()}


def all_reach_all(mesh: Mesh) -> bool:
    return all(set(states(host).values()) == {"reachable"} for host in mesh.hosts)


def test_peers_are_found_through_the_tunnel_over_both_families_and_protocols(checked: Mesh) -> None:
    wait_for(lambda: all_reach_all(checked), "everybody reaches everybody", 30)
    first = checked.hosts[0]

    def whole() -> bool:
        rows = first.call(checks.rows).values()
        return all(
            address[protocol]["mean"] is not None and not address[protocol]["error"]
            for row in rows
            for address in row["addresses"]
            for protocol in ("icmp", "http")
        )

    wait_for(whole, "ICMP and HTTP of every address are answered", 30)
    for row in first.call(checks.rows).values():
        assert row["path"] == "tunnel" and row["device"] == "wardmesh_wg0"
        assert [":" in address["address"] for address in row["addresses"]] == [False, True]
        assert 0 < row["latency"] < 1 and row["loss"] == 0


def test_a_host_that_is_cut_off_is_noticed_and_comes_back(checked: Mesh) -> None:
    first, second, third = checked.hosts
    wait_for(lambda: all_reach_all(checked), "everybody reaches everybody", 30)
    third.run("ip", "link", "set", "eth0", "down")
    try:
        gone = {"node2": "reachable", "node3": "unreachable"}
        wait_for(lambda: states(first) == gone, "node1 notices that node3 is gone", NOTICED)
        wait_for(
            lambda: set(states(third).values()) == {"unreachable"}, "node3 notices that it is alone", NOTICED
        )
        assert first.call(checks.rows)["node3"]["addresses"][0]["icmp"]["error"] == "no answer"
        assert states(second)["node1"] == "reachable"
    finally:
        third.run("ip", "link", "set", "eth0", "up")
        third.run("ip", "address", "replace", "fd98::3/64", "dev", "eth0", "nodad")
    wait_for(lambda: not any(checked.reconcile()), "the agents put things right", 30)
    wait_for(lambda: all_reach_all(checked), "node3 is back", 60)


def test_loss_is_measured(checked: Mesh) -> None:
    """Every third echo request to node2 is dropped; nobody else is blamed, and node2 stays reachable."""
    first, second, _third = checked.hosts
    second.run("nft", "add", "table", "inet", "lossy")
    second.run("nft", "add", "chain inet lossy in { type filter hook input priority 0; }")
    second.run(
        "nft",
        "add rule inet lossy in ip saddr 10.98.0.1 icmp type echo-request numgen inc mod 3 0 drop",
    )
    try:

        def lossy() -> bool:
            row = first.call(checks.rows)["node2"]
            icmp = row["addresses"][0]["icmp"]
            return bool(icmp["sent"] == 30 and 0.2 < icmp["loss"] < 0.47)

        wait_for(lossy, "a third of the echoes is lost", 60)
        rows = first.call(checks.rows)
        assert rows["node2"]["state"] == "reachable" and rows["node2"]["loss"] > 0.2
        assert rows["node3"]["loss"] == 0
        assert rows["node2"]["addresses"][0]["http"]["loss"] == 0
    finally:
        second.run("nft", "delete", "table", "inet", "lossy")


def test_members_are_answered_and_strangers_are_not(checked: Mesh) -> None:
    first, second, _third = checked.hosts
    assert "200 OK" in first.run("python3", "-c", ASK, "10.98.0.2")
    first.run("ip", "address", "add", "10.98.0.77/32", "dev", "eth0")
    try:
        bound = ASK.replace("timeout=5", 'timeout=5, source_address=("10.98.0.77", 0)')
        second.run("ip", "route", "add", "10.98.0.77", "dev", "eth0")
        said = first.run("ip", "route", "add", "10.98.0.2", "dev", "eth0", "table", "77", check=False)
        assert not said
        first.run("ip", "rule", "add", "from", "10.98.0.77", "priority", "10", "lookup", "77")
        answer = first.run("python3", "-c", bound, "10.98.0.2", check=False)
        assert "HTTP" not in answer.replace("GET", ""), answer
    finally:
        first.run("ip", "rule", "del", "priority", "10", check=False)
        first.run("ip", "address", "del", "10.98.0.77/32", "dev", "eth0", check=False)
        second.run("ip", "route", "del", "10.98.0.77", check=False)


@pytest.mark.parametrize("address", ["10.98.0.2", "fd98::2"])
def test_path_mtu_is_found_where_something_on_the_way_is_narrow(mesh: Mesh, address: str) -> None:
    first, second, _third = mesh.hosts
    assert first.call(checks.way, address) == ("wardmesh_wg0", 0)
    assert first.call(checks.path_mtu, address, 1420) == 1420
    second.run("nft", "add", "table", "inet", "narrow")
    second.run("nft", "add", "chain inet narrow in { type filter hook input priority 0; }")
    second.run("nft", "add rule inet narrow in iifname wardmesh_wg0 meta length > 1337 drop")
    try:
        assert first.call(checks.path_mtu, address, 1420) == 1337
    finally:
        second.run("nft", "delete", "table", "inet", "narrow")
