# SPDX-License-Identifier: Apache-2.0
"""Other clusters in the engine: peers, seals, and policies that admit exactly the pods they name."""

from __future__ import annotations

import base64
import ipaddress
import json
from dataclasses import replace

import pytest
from tests.loading import load
from tests.unit.agent.discovery.kubernetes import K8S, identity, node, node_key, pod

from wardmesh.cli import text
from wardmesh.cli.fleet import fleet_in_force
from wardmesh.daemon.discovering import order_of
from wardmesh.daemon.engine import Engine
from wardmesh.daemon.firewall_tables import engine_of, host_tables
from wardmesh.daemon.inputs import load_or_last_good
from wardmesh.daemon.modes import set_mode
from wardmesh.daemon.view import View
from wardmesh.datapath.contract import MEMBER, STRICT
from wardmesh.discovery.clusters import Remote
from wardmesh.discovery.join import join
from wardmesh.discovery.keys import NODES, NUMBERS, PAIRS
from wardmesh.discovery.learned import write_learned
from wardmesh.discovery.process import read_order
from wardmesh.discovery.remote_roll import RemoteRoll
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.observe.names import Names
from wardmesh.policy.engine import Action
from wardmesh.policy.files import parse_policies
from wardmesh.policy.ports import TCP
from wardmesh.wireguard.rotation import rotating_with

fakes = load("tests/unit/agent/daemon/fakes.py")
KEYS = {
    name: base64.b64encode(bytes([number]) * 32).decode() for number, name in enumerate(("db", "web"), 50)
}
CONFIG = f"""
cluster: {{name: test, id: 1}}
clustermesh:
  config:
    enabled: true
    clusters:
      - {{name: k8s-a, id: 71, address: 'https://203.0.113.5:2379'}}
      - name: site-b
        id: 2
        nodes:
          - {{name: db, address: 10.8.0.1, publicKey: '{KEYS["db"]}', endpoint: '203.0.113.8:40000',
             labels: {{app: backend}}}}
          - 10.8.0.9
"""
PODS = (
    pod("10.42.1.5", 100, 1, "default/frontend-0"),
    pod("10.42.1.6", 101, 1, "default/other-0"),
    pod("10.42.2.5", 102, 2, "prod/frontend-1"),
    pod("10.42.2.6", 103, 2, "default/backend-0"),
)


def numbers(cluster: str = K8S.name) -> list:
    """frontend and others in two namespaces."""
    rows = (
        (100, "frontend", "default"),
        (101, "other", "default"),
        (102, "frontend", "prod"),
        (103, "backend", "default"),
    )
    return [identity(n, cluster, app=app, io__kubernetes__pod__namespace=space) for n, app, space in rows]


def rolled(*, pods=PODS, nodes=(1, 2)) -> RemoteRoll:
    roll = RemoteRoll(K8S, 600.0)
    for kind, entries in ((NUMBERS, numbers()), (NODES, [node(n) for n in nodes]), (PAIRS, pods)):
        roll.snapshot(kind, entries)
    return roll


class Host(fakes.StoreHost):
    """An engine in a cluster of two, which knows a Kubernetes cluster and a site."""

    config = CONFIG

    def learn(self, roll: RemoteRoll) -> None:
        self.paths.clusters.mkdir(parents=True, exist_ok=True)
        (self.paths.clusters / "k8s-a.json").write_bytes(write_learned(roll.found()))

    def seal(self, engine: Engine, *keys: str) -> None:
        held = self.machine.peers
        for key in keys:
            held[key] = replace(held[key], last_handshake=self.wall)
        engine.reconcile()
        set_mode(engine, "strict")
        self.clock.now += 5.1
        engine.reconcile()


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def peers(engine: Engine) -> set[str]:
    return {member.name for member in engine.mesh.others}


def net(network: str):
    return ipaddress.ip_network(network)


def test_members_of_other_clusters_are_peers(host):
    engine = host.start()
    assert peers(engine) == {"node2", "site-b/db"}
    host.learn(rolled())
    engine.rediscover()
    assert peers(engine) == {"node2", "site-b/db", "k8s-a/node1", "k8s-a/node2"}
    peer = engine.mesh.peers[node_key(1)]
    assert {str(network) for network in peer.allowed_ips} == {"192.0.2.1/32", "10.42.1.0/24"}
    assert str(peer.endpoint) == "192.0.2.1:51871"
    assert str(engine.mesh.peers[KEYS["db"]].endpoint) == "203.0.113.8:40000"
    assert engine.rediscover() == []


def test_pods_have_their_identity_and_their_nodes_seal_in_the_guard(host):
    host.learn(rolled())
    engine = host.start()
    number = 71 << 16 | 100
    assert host.machine.entries[net("10.42.1.5/32")] == (number, MEMBER)
    host.seal(engine, node_key(1))
    assert host.machine.entries[net("10.42.1.5/32")] == (number, MEMBER | STRICT)
    assert host.machine.entries[net("10.42.1.0/24")][1] == MEMBER | STRICT
    assert host.machine.entries[net("10.42.2.5/32")][1] == MEMBER
    host.learn(rolled(nodes=(2,), pods=()))
    roll = rolled()
    roll.nodes.gone("cilium/state/nodes/v1/k8s-a/node1")
    roll.tick(2.0)
    host.learn(roll)
    engine.rediscover()
    assert "k8s-a/node1" not in peers(engine)
    assert host.machine.entries[net("10.42.1.0/24")][1] == MEMBER | STRICT, "nothing goes there in plain"


def test_the_observer_and_the_command_line_know_the_pods(host):
    host.learn(rolled())
    engine = host.start()
    shared = fleet_in_force(host.paths)
    assert shared.members == engine.inputs.fleet.members
    assert shared.workloads == engine.inputs.fleet.workloads
    party = Names(shared, "node1").party(ipaddress.ip_address("10.42.1.5"))
    assert (party.name, party.cluster, party.identity) == ("default/frontend-0", "k8s-a", 71 << 16 | 100)
    assert "k8s:app=frontend" in party.labels
    assert Names(shared, "node1").party(ipaddress.ip_address("10.8.0.1")).cluster == "site-b"


def test_a_node_of_kubernetes_has_one_tunnel_while_keys_rotate(host):
    host.learn(rolled())
    engine = host.start()
    own = replace(engine.mesh.own, next_key=KEYS["web"])
    assert rotating_with(own, engine.mesh.others) == {"node2", "site-b/db"}


def test_a_restart_without_the_store_keeps_the_other_clusters(host):
    host.learn(rolled())
    host.start()
    assert len(peers(host.start())) == 4
    (host.paths.clusters / "k8s-a.json").write_bytes(b"{")
    assert peers(host.start()) == {"node2", "site-b/db"}


def test_a_damaged_file_changes_nothing(host):
    host.learn(rolled())
    engine = host.start()
    (host.paths.clusters / "k8s-a.json").write_bytes(b"{")
    assert engine.rediscover() == []
    host.paths.fleet.write_bytes(fakes.map_bytes(2, ("node1", "node2", "node3")))
    engine.reload()
    assert len(peers(engine)) == 5


def test_a_cluster_that_leaves_the_configuration_is_gone(host):
    host.learn(rolled())
    engine = host.start()
    host.paths.config.write_text("cluster: {name: test, id: 1}\n")
    engine.reload()
    assert peers(engine) == {"node2"}
    assert net("10.42.1.5/32") not in host.machine.entries
    assert "clustermesh" not in View(engine).status()
    assert order_of(engine.inputs, host.paths) is None


def test_a_wrong_list_of_clusters_leaves_the_last_good_state(host):
    engine = host.start()
    host.paths.config.write_text(CONFIG.replace("id: 2", "id: 1"))
    with pytest.raises(WardmeshError) as caught:
        engine.reload()
    assert "site-b has id 1, as test has" in caught.value.why
    _inputs, error = load_or_last_good(host.paths)
    assert error is not None
    assert "site-b/db" in peers(engine)


def test_the_process_is_ordered_to_follow_the_stores(host):
    order = order_of(host.start().inputs, host.paths)
    assert read_order(order.line()) == order
    assert order.values["clustermesh.config.clusters"][0]["name"] == "k8s-a"


def test_status_tells_of_each_cluster(host):
    host.learn(rolled())
    engine = host.start()
    said = {
        "k8s-a": {
            "connected": True,
            "server": "s:1",
            "problem": "",
            "lastChange": 990,
            "skipped": 1,
            "skippedRecords": [{"key": "K", "why": "W"}],
        }
    }
    document = View(engine).status({}, said)
    first, second = document["clustermesh"]
    assert (first["ready"], first["nodes"], first["identities"], first["addresses"]) == (True, 2, 4, 4)
    assert first["problems"] == ["K skipped: W"]
    assert (second["ready"], second["nodes"], second["identities"]) == (True, 1, 1)
    assert second["problems"] == ["10.8.0.9 is no peer: it has no publicKey"]
    words = text.clustermesh(document["clustermesh"], 1000)
    assert words.splitlines()[:3] == [
        "ClusterMesh:  2/2 remote clusters ready",
        "  k8s-a (id 71): ready, 2 nodes (0 reachable), 4 identities, 4 addresses, last change 10s ago",
        "    store: connected to s:1",
    ]
    assert "ClusterMesh:    2/2 remote clusters ready" in text.status(document, health=False, verbose=False)
    away = View(engine).status({}, {"k8s-a": {**said["k8s-a"], "connected": False, "problem": "away"}})
    assert not away["clustermesh"][0]["ready"]
    assert any("cluster k8s-a: away" in warning for warning in away["warnings"])
    json.dumps(away)


# --- policies ---

FRONTEND = """
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata: {name: allow-k8s-to-vm}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
    - fromEndpoints:
        - matchLabels:
            io.kubernetes.pod.namespace: default
            app: frontend
            io.cilium.k8s.policy.cluster: k8s-a
"""
DATABASE = """
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata: {name: protect-database}
spec:
  endpointSelector: {matchLabels: {app: postgres}}
  ingress:
    - fromEndpoints:
        - matchLabels: {app: backend, io.cilium.k8s.policy.cluster: k8s-a}
      toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
"""
ENTITY = """
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata: {name: entity}
spec:
  endpointSelector: {matchLabels: {app: postgres}}
  ingress: [{fromEntities: [ENTITY]}]
"""
BY_CLUSTER = """
apiVersion: "cilium.io/v2"
kind: CiliumNetworkPolicy
metadata: {name: by-cluster}
spec:
  endpointSelector: {matchLabels: {app: postgres}}
  ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.policy.cluster: site-b}}]}]
"""
PEERS = {
    "10.0.0.2": "own",
    "10.8.0.1": "site-b",
    "192.0.2.1": "node of k8s",
    "10.42.1.5": "frontend",
    "10.42.1.6": "other",
    "10.42.2.5": "frontend of prod",
    "10.42.2.6": "backend pod",
    "10.42.2.99": "unknown pod",
    "198.51.100.1": "world",
}


def whole_fleet(host, label: str) -> FleetMap:
    """node1 has the label app."""
    plain = parse_fleet_map(fakes.map_bytes(1, ("node1", "node2")), "t")
    members = [replace(m, labels={"app": label}) if m.name == "node1" else m for m in plain.members]
    own = replace(plain, members=tuple(members))
    remotes = load_or_last_good(host.paths)[0].remotes
    assert isinstance(remotes[0], Remote)
    return join(own, remotes, {"k8s-a": rolled().found()}, 1000)[0]


def admitted(host, policy: str, label: str, port: int) -> set[str]:
    found = whole_fleet(host, label)
    engine = engine_of(parse_policies((("p.yaml", policy),), "p"), found)
    subject = engine.endpoints["node1"]
    assert host_tables(engine.policies, found, "node1").enforced
    return {
        name
        for address, name in PEERS.items()
        if engine.verdict(subject, ipaddress.ip_address(address), TCP, port, True)[0] is Action.ALLOW
    }


def test_a_policy_admits_exactly_the_pods_of_a_namespace_of_another_cluster(host):
    assert admitted(host, FRONTEND, "backend", 8080) == {"frontend"}


def test_a_policy_admits_exactly_the_pods_that_a_database_is_for(host):
    assert admitted(host, DATABASE, "postgres", 5432) == {"backend pod"}
    assert admitted(host, DATABASE, "postgres", 5433) == set()


@pytest.mark.parametrize(
    ("entity", "who"),
    [
        ("cluster", {"own"}),
        ("remote-node", {"own", "site-b", "node of k8s"}),
        ("world", {"unknown pod", "world"}),
        ("all", set(PEERS.values())),
    ],
)
def test_entities_know_the_own_cluster_from_others(host, entity, who):
    assert admitted(host, ENTITY.replace("ENTITY", entity), "postgres", 1) == who


def test_a_cluster_is_admitted_by_its_label(host):
    assert admitted(host, BY_CLUSTER, "postgres", 1) == {"site-b"}


def test_the_firewalls_addresses_have_the_pods_identities(host):
    found = whole_fleet(host, "postgres")
    tables = host_tables(parse_policies((("p.yaml", DATABASE),), "p"), found, "node1")
    assert tables.peers[net("10.42.2.6/32")].identity == 71 << 16 | 103
    assert net("10.42.2.0/24") not in tables.peers
    assert tables.peers[net("10.8.0.1/32")].identity >> 16 == 2
