# SPDX-License-Identifier: Apache-2.0
"""Members by a store on real hosts: etcd by its role, a host that no other map has, a store that goes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.certificates import Authority
from tests.waiting import wait_for

import pings
from conftest import Fleet, changed
from hardening import check_nobody
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
LEASE = 15  # a machine that is busy with other tests must not let it run out
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
    "encryption": {"keyRotation": "12h"},
}


def until(holds: Callable[[], Any], what: str, within: float = 120.0) -> float:
    """Poll a host; how long it took, which `pytest -s` prints: a busy machine is no place to judge it."""
    begun = time.monotonic()
    wait_for(holds, what, within, 0.1)
    took = time.monotonic() - begun
    print(f"{took:.1f} s: {what}")
    return took


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
    made = Store(Lab.up(3, "store"), folder, compiled=False)
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
    until(lambda: sealed(one, "node2", "node3"), "node1 has sealed the others")
    until(lambda: sealed(two, "node1", "node3"), "node2 has sealed the others")
    until(lambda: sealed(three, "node1", "node2"), "node3 has sealed the others")
    two.run("ping -c 3 -i 0.2 -W 2 10.99.0.3")
    assert status(two)["problems"] == []
    assert status(two)["discovery"]["registered"]


def test_a_second_run_changes_nothing(store: Store) -> None:
    assert set(changed(store.run("kvstore", "wardmesh")).values()) == {0}


def test_a_user_without_rights_gets_at_nothing_of_the_store(store: Store) -> None:
    for host in store.lab.hosts:
        check_nobody(store.lab, host)


def test_labels_added_by_hand_are_known_to_all(store: Store) -> None:
    one, two, three = store.lab.hosts
    three.run("wardmesh labels add app=web")
    for host in (one, two, three):
        until(
            lambda h=host: "vm:app=web" in h.run("wardmesh identity list").stdout,
            f"{host.name} knows the label",
        )


def public_key(host: Host) -> str:
    return host.run("wg show wardmesh_wg0 public-key").stdout.strip()


def test_a_host_changes_its_key_by_itself_and_nothing_is_lost(store: Store) -> None:
    """node2's key is in the map of node1; node3 knows it by the store alone."""
    one, two, three = store.lab.hosts
    before = public_key(two)
    running = [(a, pings.begin(a, b)) for a, b in ((one, two), (two, one), (three, two), (two, three))]
    assert json.loads(two.run("wardmesh encryption rotate --phase alone --json").stdout)["changed"]
    until(lambda: public_key(two) != before, "the next key is in use")
    for host in store.lab.hosts:
        until(lambda h=host: status(h)["rotation"]["phase"] == "none", f"{host.name}: it is over")
    assert [pings.lost(host, unit) for host, unit in running] == [0, 0, 0, 0]
    for host in store.lab.hosts:
        known = host.run("wg show all dump; ip -br link").stdout
        assert public_key(two) in known
        assert before not in known and "wardmesh_wg1" not in known
    assert sealed(two, "node1", "node3")


def test_the_next_rollout_learns_the_key(store: Store) -> None:
    two = store.lab.hosts[1]
    store.run("site", "near")
    found = json.loads((store.folder / "near/registry.json").read_text())
    assert found["members"]["node2"]["key"] == public_key(two)
    assert set(changed(store.run("site", "near")).values()) == {0}


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
        until(lambda h=host: status(h)["discovery"]["registered"], f"{host.name} registers again")
        assert len(peers(host)) == 2
    assert pings.missing(ping.communicate()[0], at_least=120) == 0


def test_who_dies_is_no_peer_any_more_and_stays_sealed(store: Store) -> None:
    one, two, three = store.lab.hosts
    three.run("systemctl stop wardmesh")
    until(lambda: set(peers(two)) == {"node1"}, "node3 is no peer of node2")
    assert "node3" in peers(one), "the host that runs the store keeps it, so that it can come back"
    assert "strict" in flags(two, "10.99.0.3").lower(), flags(two, "10.99.0.3")
    assert two.run("ping -c 1 -W 1 10.99.0.3 || echo silent").stdout.strip().endswith("silent")
    three.run("systemctl start wardmesh")
    until(lambda: len(two.run("wg show wardmesh_wg0 peers").stdout.split()) == 2, "it is a peer of node2")
    until(lambda: sealed(two, "node1", "node3"), "it is sealed")
    two.run("ping -c 3 -i 0.2 -W 2 10.99.0.3")
