# SPDX-License-Identifier: Apache-2.0
"""Other clusters by their stores: real etcd, records as Cilium writes them, the agent's own process."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd
from tests.loading import load
from tests.unit.agent.discovery.kubernetes import K8S, identity, node, node_key, pod
from tests.unit.agent.discovery.samples import item
from tests.waiting import wait_for

from wardmesh.daemon import discovering
from wardmesh.daemon.discovering import Discovering
from wardmesh.daemon.engine import Engine
from wardmesh.daemon.view import View
from wardmesh.datapath.contract import MEMBER
from wardmesh.discovery import remote as remote_module
from wardmesh.discovery.backend import Entry
from wardmesh.discovery.clusters import Remote
from wardmesh.discovery.keys import canary_keys, cluster_key
from wardmesh.discovery.process import connect
from wardmesh.discovery.publisher import Publisher
from wardmesh.discovery.remote import RemoteFollower
from wardmesh.discovery.settings import Settings
from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.model.map_parser import parse_fleet_map

fakes = load("tests/unit/agent/daemon/fakes.py")
test_agent = load("tests/store/test_agent.py")
OWN = Cluster("own", 7)
FRONTEND = K8S.id << 16 | 100
RECORDS = (
    node(1),
    node(2),
    identity(100, app="frontend"),
    identity(101, app="other"),
    pod("192.0.2.1", None, 1),
    pod("10.42.1.5", 100, 1, "default/frontend-0"),
    pod("10.42.2.5", 101, 2, "default/other-0"),
)


def put(etcd: Etcd, *entries: Entry) -> None:
    for entry in entries:
        etcd.ctl("put", entry.key, text=entry.value.decode())


def kubernetes(etcd: Etcd, cluster: Cluster = K8S, number: int = 0) -> None:
    """The store of a Kubernetes cluster with two nodes: data, then the signs that it is complete."""
    config = {
        "id": number or cluster.id,
        "capabilities": {"syncedCanaries": True, "maxConnectedClusters": 255},
    }
    etcd.ctl("put", cluster_key(cluster.name), text=json.dumps(config))
    put(etcd, *RECORDS)
    for key in canary_keys(cluster.name, cached=False):
        etcd.ctl("put", key, text="2026-01-02T03:04:05Z")


class Host(test_agent.Host):  # type: ignore[misc,name-defined]
    """A host of a cluster of its own, which knows others by their stores."""

    def __init__(self, root: Path, clusters: list[dict[str, Any]], cluster: Cluster = OWN) -> None:
        self.paths = fakes.make_host(root, None)
        document = {
            "format": 1,
            "generation": 1,
            "cluster": {"name": cluster.name, "id": cluster.id},
            "members": [item(1, key=fakes.OWN_KEY), item(2)],
        }
        self.paths.fleet.write_bytes(canonical({**document, "digest": digest_of(document)}))
        config = {
            "cluster": {"name": cluster.name, "id": cluster.id},
            "clustermesh": {"config": {"enabled": True, "clusters": clusters}},
        }
        self.paths.config.write_text(json.dumps(config))
        self.machine = fakes.FakeMachine()
        self.engine = Engine(self.paths, self.machine)
        self.engine.first_pass()
        rediscover = self.engine.rediscover
        self.discovering = Discovering(self.paths, lambda: self.engine.inputs, rediscover, test_agent.at_once)
        self.discovering.start()

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = View(self.engine).status({}, self.discovering.clusters)["clustermesh"]
        return found

    def flags(self, network: str) -> Any:
        return self.machine.entries.get(ipaddress.ip_network(network))


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes hosts, and ends them."""
    monkeypatch.setattr(discovering, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(discovering, "LOOK", 0.1)
    made: list[Host] = []

    def make(*clusters: dict[str, Any], cluster: Cluster = OWN) -> Host:
        made.append(Host(tmp_path / f"host{len(made)}", list(clusters), cluster))
        return made[-1]

    yield make
    for host in made:
        host.discovering.close()


def address(etcd: Etcd) -> str:
    return f"127.0.0.1:{etcd.members[0].client}"


def test_the_nodes_of_a_kubernetes_cluster_are_peers_and_its_pods_have_their_identities(
    hosts, etcd: Etcd
) -> None:
    kubernetes(etcd)
    host = hosts({"name": "k8s-a", "id": K8S.id, "address": address(etcd)})
    host.has("h2", "k8s-a/node1", "k8s-a/node2")
    allowed = host.engine.mesh.peers[node_key(1)].allowed_ips
    assert {str(network) for network in allowed} == {"192.0.2.1/32", "10.42.1.0/24"}
    wait_for(lambda: host.flags("10.42.1.5/32") == (FRONTEND, MEMBER), "its pods are known")
    put(etcd, pod("10.42.1.9", 100, 1, "default/frontend-1"), node(3))
    wait_for(lambda: host.flags("10.42.1.9/32") == (FRONTEND, MEMBER), "a new pod is known")
    host.has("h2", "k8s-a/node1", "k8s-a/node2", "k8s-a/node3")
    etcd.ctl("del", pod("10.42.1.5", 100, 1).key)
    etcd.ctl("del", node(2).key)
    host.has("h2", "k8s-a/node1", "k8s-a/node3")
    wait_for(lambda: host.flags("10.42.1.5/32") is None, "a pod that ended is nobody")
    row = host.rows()[0]
    assert (row["ready"], row["nodes"], row["addresses"], row["identities"]) == (True, 2, 1, 1)
    assert row["refused"] == 1, "the pod of the node that is gone"
    assert row["lastChange"] > 0


def test_a_store_that_is_away_keeps_its_cluster_and_comes_back(hosts, etcd: Etcd) -> None:
    kubernetes(etcd)
    host = hosts({"name": "k8s-a", "address": address(etcd)})
    host.has("h2", "k8s-a/node1", "k8s-a/node2")
    etcd.members[0].end()
    wait_for(
        lambda: not host.rows()[0]["connected"] and host.rows()[0]["problems"], "it says that it is away"
    )
    assert host.peers() == {"h2", "k8s-a/node1", "k8s-a/node2"}
    assert not host.rows()[0]["ready"]
    etcd.run(etcd.members[0])
    etcd.ready()
    put(etcd, node(3))
    host.has("h2", "k8s-a/node1", "k8s-a/node2", "k8s-a/node3")
    assert host.rows()[0]["problems"] == []


def test_a_store_that_was_wiped_is_read_when_it_is_complete_again(hosts, etcd: Etcd) -> None:
    kubernetes(etcd)
    host = hosts({"name": "k8s-a", "address": address(etcd)})
    host.has("h2", "k8s-a/node1", "k8s-a/node2")
    etcd.members[0].end()
    for path in etcd.members[0].folder.iterdir():
        path.rename(etcd.folder / f"old-{path.name}")
    etcd.run(etcd.members[0])
    etcd.ready()
    etcd.ctl(
        "put", cluster_key("k8s-a"), text=json.dumps({"id": 71, "capabilities": {"syncedCanaries": True}})
    )
    wait_for(
        lambda: any("not complete" in text for text in host.rows()[0]["problems"]), "it waits for the signs"
    )
    assert len(host.peers()) == 3
    kubernetes(etcd)
    wait_for(lambda: host.rows()[0]["ready"], f"it is ready: {host.rows()}")
    assert len(host.peers()) == 3


def test_a_number_that_two_clusters_have_is_refused_on_both_sides(hosts, tmp_path: Path, etcd: Etcd) -> None:
    """Each of two clusters of VMs reads the other's store; both think that they are number 7."""
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    other = Etcd(tmp_path / "b").start()
    try:
        for store, name in ((etcd, "own"), (other, "alien")):
            store.ctl("put", cluster_key(name), text='{"id":7}')
            put(store, node(1, Cluster(name, 7)))
        here = hosts({"name": "alien", "address": address(other)})
        there = hosts({"name": "own", "address": address(etcd)}, cluster=Cluster("alien", 7))
        for host, own in ((here, "own"), (there, "alien")):
            wait_for(lambda host=host: host.rows()[0]["refused"] == 1, f"refused and counted: {host.rows()}")
            row = host.rows()[0]
            assert not row["ready"]
            assert any(f"has id 7, as this host's cluster {own} has" in text for text in row["problems"])
            assert host.peers() == {"h2"}
    finally:
        other.end()


def test_a_number_other_than_the_configured_one_is_refused_and_what_was_known_stays(
    hosts, etcd: Etcd
) -> None:
    kubernetes(etcd)
    host = hosts({"name": "k8s-a", "id": K8S.id, "address": address(etcd)})
    host.has("h2", "k8s-a/node1", "k8s-a/node2")
    etcd.members[0].end()
    etcd.run(etcd.members[0])
    etcd.ready()
    etcd.ctl("put", cluster_key("k8s-a"), text='{"id":72}')
    host.discovering.close()
    again = Discovering(host.paths, lambda: host.engine.inputs, host.engine.rediscover, test_agent.at_once)
    host.discovering = again
    again.start()
    wait_for(lambda: any("has id 72" in text for text in host.rows()[0]["problems"]), "it is named")
    assert len(host.peers()) == 3


def test_records_that_are_broken_foreign_or_huge_are_named_and_lose_nobody(hosts, etcd: Etcd) -> None:
    kubernetes(etcd)
    host = hosts({"name": "k8s-a", "address": address(etcd)})
    host.has("h2", "k8s-a/node1", "k8s-a/node2")
    put(
        etcd,
        node(1, ClusterID=7),
        node(8, Cluster="own"),
        node(9, IPAddresses=[{"Type": "InternalIP", "IP": "10.0.0.1"}]),
        Entry(identity(102).key, b"x" * 70_000, 1, 1),
        Entry(pod("10.42.1.77", 100, 1).key, b"\x00", 1, 1),
        pod("10.0.0.1", 100, 1),
    )
    wait_for(
        lambda: host.rows()[0]["skipped"] == 4 and host.rows()[0]["refused"] == 2, f"counted: {host.rows()}"
    )
    words = " ".join(host.rows()[0]["problems"])
    assert "address 10.0.0.1 belongs to h1" in words
    assert "cluster 'k8s-a', 7" in words
    assert host.peers() == {"h2", "k8s-a/node1", "k8s-a/node2"}
    wait_for(lambda: host.flags("10.0.0.1/32")[0] >> 16 == OWN.id, "the own member keeps its address")


def follower(settings: Settings, name: str = "k8s-a") -> RemoteFollower:
    return RemoteFollower(Remote(name, 0, settings), settings, OWN, connect(settings), lambda _changed: None)


@contextmanager
def running(found: RemoteFollower) -> Iterator[RemoteFollower]:
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    yield found
    found.stop()
    thread.join(10)


def test_with_tls_and_no_more_rights_than_a_clustermesh_gives(secured: Etcd) -> None:
    kubernetes(secured)
    secured.user(
        "remote",
        ("read", "cilium/.heartbeat", True),
        ("read", "cilium/state/", True),
        ("read", "cilium/cluster-config/k8s-a", False),
        ("read", "cilium/synced/k8s-a/", True),
    )
    with running(follower(secured.settings("remote"))) as found:
        wait_for(
            lambda: found.connected and found.roll and len(found.roll.found().pods) == 2, found.document()
        )
    stranger = follower(secured.settings("nobody"))
    with running(stranger):
        words = ("PERMISSION", "UNAUTHENTICATED", "FAILED_PRECONDITION")
        wait_for(lambda: any(word in stranger.problem for word in words), f"refused: {stranger.problem}")


def test_a_cluster_of_our_own_kind_is_read_as_it_publishes_itself(etcd: Etcd) -> None:
    """What the publisher of one fleet writes is what another one reads: members, labels, endpoints."""
    from tests.unit.agent.discovery import samples

    document = {
        "format": 1,
        "generation": 1,
        "cluster": {"name": "c", "id": 9},
        "members": [item(1, labels={"app": "web"}, endpoint="203.0.113.1:40000", allowedIPs=["10.9.0.0/24"])],
    }
    fleet = parse_fleet_map(canonical({**document, "digest": digest_of(document)}), "t")
    settings = etcd.settings()
    member = fleet.members[0]
    store = connect(settings)(settings.servers[0], 0)
    value = samples.write_node(samples.node_of(member, fleet.cluster, member.labels))
    store.put(f"cilium/state/nodes/v1/c/{member.name}", value)
    clock = iter(range(0, 10_000, 400))
    publisher = Publisher(fleet.cluster, "h1", 5.0, lambda: fleet, lambda: float(next(clock)))
    for _step in range(3):
        assert publisher.step(store)  # type: ignore[arg-type]
    with running(follower(settings, "c")) as found:
        wait_for(lambda: found.connected, f"connected: {found.document()}")
        assert found.roll is not None
        claimed = found.roll.found().nodes.claims["h1"].member
    store.close()
    assert (claimed.name, claimed.labels, claimed.kubernetes) == ("c/h1", {"app": "web"}, False)
    assert str(claimed.endpoint) == "203.0.113.1:40000"
    assert [str(network) for network in claimed.allowed_ips] == ["10.9.0.0/24"]
    assert found.document()["skipped"] == 0


def test_a_changed_number_is_noticed_while_connected(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "LOOK", 0.2)
    kubernetes(etcd)
    with running(follower(etcd.settings())) as found:
        wait_for(lambda: found.connected, "connected")
        etcd.ctl("put", cluster_key("k8s-a"), text='{"id":7}')
        wait_for(lambda: "has id 7, as this host's cluster own" in found.problem, "it is refused")
        assert found.refused == 2
        assert found.roll is not None
        assert len(found.roll.nodes.claims) == 2, "what was known stays"
