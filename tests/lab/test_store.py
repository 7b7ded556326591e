# SPDX-License-Identifier: Apache-2.0
"""Members by a store on real hosts: etcd by its role, a host that no other map has, a store that goes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.certificates import Authority

from conftest import Fleet, changed
from lab import Host, Lab
from mirror import mirror

pytestmark = [pytest.mark.container, pytest.mark.beside]

# node1 and node2 are in one map, node3 is alone in another one; node1 runs etcd.
GROUPS = {
    "all": {
        "children": {
            "near": {"hosts": {"node1": {}, "node2": {}}},
            "far": {"hosts": {"node3": {}}},
            "kvstore": {"hosts": {"node1": {}}},
        }
    }
}
LEASE = 5
CONFIG = {
    "etcd": {
        "endpoints": ["https://10.99.0.1:2379"],
        "tls": {
            name: f"/etc/wardmesh/store/{file}"
            for name, file in (("ca", "ca.crt"), ("cert", "host.crt"), ("key", "host.key"))
        },
        "lease": f"{LEASE}s",
    },
    "discovery": {"networks": ["10.99.0.0/24", "fd99::/64"]},
}


def until(holds: Callable[[], Any], what: str, within: float = 60.0) -> float:
    """Poll until something holds; how long it took."""
    begun = time.monotonic()
    while time.monotonic() < begun + within:
        if holds():
            return time.monotonic() - begun
        time.sleep(0.1)
    raise AssertionError(f"not within {within} s: {what}")


class Store(Fleet):
    """A fleet whose playbooks know the groups and the configuration of the store."""

    def run(self, name: str, group: str, *words: str) -> Any:
        extra = {
            "wardmesh_group": group,
            "wardmesh_config": CONFIG,
            "wardmesh_registry": str(self.folder / f"{group}/registry.json"),
            "wardmesh_kvstore_pki": str(self.folder / "pki"),
            "wardmesh_kvstore_also": ["node3"],
        }
        return self.play(name, "-i", str(self.folder / "groups.json"), "-e", json.dumps(extra), *words)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Three hosts; the etcd of the first one has certificates and users."""
    folder = tmp_path_factory.mktemp("store")
    made = Store(Lab.up(3, "store"), folder)
    try:
        (folder / "groups.json").write_text(json.dumps(GROUPS))
        authority = Authority(folder / "pki")
        authority.issue("root")
        for number in (1, 2, 3):
            authority.issue(f"node{number}", f"10.99.0.{number}")
        for group in ("near", "far"):
            (folder / group).mkdir()
            made.run("site", group)
        mirror(made.lab.hosts[0], folder / "mirror", "etcd-server", "etcd-client")
        made.run("kvstore", "wardmesh")
        yield made
    finally:
        made.lab.down()


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("wardmesh status -o json").stdout)
    return found


def peers(host: Host) -> dict[str, dict[str, Any]]:
    return {peer["name"]: peer for peer in status(host)["peers"]}


def sealed(host: Host, *names: str) -> bool:
    found = peers(host)
    return set(found) == set(names) and all(peer["sealed"] and peer["reachable"] for peer in found.values())


def flags(host: Host, address: str) -> str:
    return host.run(f"wardmesh bpf ipcache list | grep -w {address} || true").stdout


def test_a_host_that_no_map_of_the_others_has_becomes_a_sealed_member(store: Store) -> None:
    one, two, three = store.lab.hosts
    until(lambda: sealed(one, "node2", "node3"), f"node1: {status(one)}")
    until(lambda: sealed(two, "node1", "node3"), f"node2: {status(two)}")
    until(lambda: sealed(three, "node1", "node2"), f"node3: {status(three)}")
    two.run("ping -c 3 -i 0.2 -W 2 10.99.0.3")
    assert status(two)["problems"] == []
    assert status(two)["discovery"]["registered"]


def test_a_second_run_changes_nothing(store: Store) -> None:
    assert set(changed(store.run("kvstore", "wardmesh")).values()) == {0}


def test_labels_added_by_hand_are_known_to_all(store: Store) -> None:
    one, two, three = store.lab.hosts
    three.run("wardmesh labels add app=web")
    for host in (one, two, three):
        until(
            lambda h=host: "vm:app=web" in h.run("wardmesh identity list").stdout, f"{host} knows the label"
        )


def test_the_store_goes_and_nothing_is_lost(store: Store) -> None:
    one, two, three = store.lab.hosts
    ping = two.popen("ping -i 0.1 -W 1 -c 120 10.99.0.3")
    one.run("systemctl stop etcd")
    until(lambda: not status(two)["discovery"]["connected"], "node2 notices")
    two.run("systemctl restart wardmesh")
    until(lambda: sealed(two, "node1", "node3"), "the members stay over a restart without a store")
    two.run("ping -c 3 -i 0.2 -W 2 10.99.0.3")
    one.run("systemctl start etcd")
    for host in (one, two, three):
        until(lambda h=host: status(h)["discovery"]["registered"], f"{host} registers again")
        assert len(peers(host)) == 2
    output = ping.communicate()[0]
    assert " 0% packet loss" in output, output


def test_who_dies_is_no_peer_any_more_and_stays_sealed(store: Store) -> None:
    one, two, three = store.lab.hosts
    three.run("systemctl stop wardmesh")
    until(lambda: set(peers(two)) == {"node1"}, "node3 is no peer of node2")
    assert "node3" in peers(one), "the host that runs the store keeps it, so that it can come back"
    assert "strict" in flags(two, "10.99.0.3").lower(), flags(two, "10.99.0.3")
    assert two.run("ping -c 1 -W 1 10.99.0.3 || echo silent").stdout.strip().endswith("silent")
    three.run("systemctl start wardmesh")
    until(lambda: sealed(two, "node1", "node3"), "it is back")
    two.run("ping -c 3 -i 0.2 -W 2 10.99.0.3")
