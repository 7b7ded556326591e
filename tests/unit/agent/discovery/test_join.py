# SPDX-License-Identifier: Apache-2.0
"""The own cluster and the others as one map: whose an address is, and who is refused."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest
from tests.unit.agent.discovery.kubernetes import K8S, identity, node, node_key, pod
from tests.unit.agent.discovery.samples import CLUSTER, fleet, item, key

from wardmesh.discovery.clusters import Remote
from wardmesh.discovery.document import Claim, Departed
from wardmesh.discovery.join import Joined, join
from wardmesh.discovery.keys import NODES, NUMBERS, PAIRS
from wardmesh.discovery.learned import Learned
from wardmesh.discovery.members import clusters_document, member_document
from wardmesh.discovery.remote_roll import RemoteRoll
from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import FleetMap, canonical, digest_of
from wardmesh.model.identity import REMOTE_NODE, identities, member_labels
from wardmesh.model.map_parser import parse_fleet_map, parse_member

OWN = fleet(item(1), item(2, allowedIPs=["10.9.0.0/24"]))


def learned(nodes=(), identities=(), pods=(), cluster: Cluster = K8S) -> Learned:
    roll = RemoteRoll(cluster, 60.0)
    for kind, entries in ((NUMBERS, identities), (NODES, nodes), (PAIRS, pods)):
        roll.snapshot(kind, entries)
    assert not roll.skipped and not roll.nodes.skipped
    return roll.found()


def cluster_of(name: str, number: int, *items: dict) -> Remote:
    own = Cluster(name, number)
    return Remote(name, number, None, tuple(parse_member(found, "t", own) for found in items))


def joined(*remotes: Remote, room: int = 1000, **stores: Learned) -> tuple[FleetMap, dict[str, Joined]]:
    named = {name.replace("_", "-"): found for name, found in stores.items()}
    found, rows = join(OWN, remotes, named, room)
    return found, {row.name: row for row in rows}


def names(found: FleetMap) -> list[str]:
    return [member.name for member in found.members]


def two_nodes(**more) -> Learned:
    wanted = {
        "nodes": [node(1), node(2)],
        "identities": [identity(100, app="web")],
        "pods": [pod("10.42.1.5", 100, 1, "default/web-0")],
    }
    return learned(**{**wanted, **more})


def test_members_of_other_clusters_are_members_with_numbers_of_their_own():
    found, rows = joined(cluster_of("b", 2, item(11), item(12)), Remote("k8s-a", 71), k8s_a=two_nodes())
    assert names(found) == ["b/h11", "b/h12", "h1", "h2", "k8s-a/node1", "k8s-a/node2"]
    numbers = identities(found)
    assert {name: number >> 16 for name, number in numbers.items() if number != REMOTE_NODE} == {
        "h1": CLUSTER.id,
        "h2": CLUSTER.id,
        "b/h11": 2,
        "b/h12": 2,
        f"k8s-a/identity/{71 << 16 | 100}": 71,
    }
    assert numbers["k8s-a/node1"] == REMOTE_NODE
    assert (rows["k8s-a"].pods, rows["k8s-a"].identities) == (1, {71 << 16 | 100})
    assert [member.name for member in found.home] == ["h1", "h2"]
    labels = member_labels(found.members[0], found.cluster.name)
    assert {"k8s:io.cilium.k8s.policy.cluster=b", "vm:cluster=b", "vm:node=h11"} <= labels


def test_numbers_of_the_own_cluster_do_not_change_by_another_one():
    alone = identities(OWN)
    found, _rows = joined(cluster_of("b", 2, item(11)))
    assert {name: identities(found)[name] for name in alone} == alone


def test_the_map_in_force_is_written_and_read_with_its_clusters():
    found, _rows = joined(
        cluster_of("b", 2, item(11, labels={"a": "b"}, ports={"web": 80})),
        Remote("k8s-a", 71),
        k8s_a=two_nodes(),
    )
    document = {
        "format": 1,
        "generation": found.generation,
        "cluster": {"name": CLUSTER.name, "id": CLUSTER.id},
        "members": [member_document(member) for member in found.home],
        "clusters": clusters_document(found),
    }
    again = parse_fleet_map(canonical({**document, "digest": digest_of(document)}), "t")
    assert dataclasses.replace(again, digest=found.digest) == found
    assert identities(again) == identities(found)


THIEVES = {
    "address": (item(11, addresses=["10.0.0.1"], endpoint="203.0.113.9:1"), "address 10.0.0.1 belongs to h1"),
    "key": (item(11, key=key(2)), f"key {key(2)} belongs to h2"),
    "endpoint": (item(11, endpoint="10.0.0.2:51871"), "endpoint 10.0.0.2:51871 belongs to h2"),
    "in a subnet": (item(11, addresses=["10.9.0.7"]), "address 10.9.0.7 belongs to h2"),
    "around": (item(11, allowedIPs=["10.0.0.0/24"]), "belongs to h1"),
    "too wide": (item(11, allowedIPs=["172.16.0.0/12"]), "172.16.0.0/12 is wider than a /16"),
}


@pytest.mark.parametrize("what", THIEVES)
def test_who_claims_what_the_own_cluster_has_is_refused_counted_and_named(what):
    thief, why = THIEVES[what]
    found, rows = joined(cluster_of("b", 2, thief, item(12)))
    assert names(found) == ["b/h12", "h1", "h2"]
    assert rows["b"].refused == 1
    assert rows["b"].named[0].name == "b/h11"
    assert why in rows["b"].named[0].why


def test_a_departed_member_of_the_own_cluster_is_protected_too():
    gone = dataclasses.replace(OWN, departed=(parse_member(item(5), "t"),))
    found, rows = join(gone, [cluster_of("b", 2, item(5))], {}, 1000)
    assert names(found) == ["h1", "h2"]
    assert rows[0].refused == 1


def test_a_pod_that_claims_anothers_address_is_refused_and_the_others_stay():
    theirs = two_nodes(
        pods=[
            pod("10.42.1.5", 100, 1),
            pod("10.0.0.1", 100, 1),
            pod("10.9.0.3", 100, 1),
            pod("198.51.100.7", 100, 9),
        ]
    )
    found, rows = joined(Remote("k8s-a", 71), k8s_a=theirs)
    assert [str(workload.address) for workload in found.workloads] == ["10.42.1.5"]
    assert {item.why for item in rows["k8s-a"].named} == {
        "address 10.0.0.1 belongs to h1",
        "address 10.9.0.3 belongs to h2",
        "address 198.51.100.7 is behind no member of its cluster",
    }


def test_a_pod_outside_of_its_nodes_prefixes_is_behind_the_node_that_its_record_names():
    found, _rows = joined(Remote("k8s-a", 71), k8s_a=two_nodes(pods=[pod("198.51.100.7", 100, 2)]))
    member = next(member for member in found.members if member.name == "k8s-a/node2")
    assert ipaddress.ip_network("198.51.100.7/32") in member.networks()
    assert found.workloads[0].node == "k8s-a/node2"


def test_a_number_that_two_clusters_have_is_its_of_the_configuration():
    found, rows = joined(Remote("k8s-a", 0), cluster_of("b", 71, item(11)), k8s_a=two_nodes())
    assert names(found) == ["b/h11", "h1", "h2"]
    assert rows["k8s-a"].problem == "it has id 71, as the cluster b has: nothing of it is taken"
    assert rows["k8s-a"].refused == 3
    assert found.workloads == ()


def test_a_store_that_has_the_own_number_is_refused_as_a_whole():
    same = Cluster("k8s-a", CLUSTER.id)
    found, rows = joined(Remote("k8s-a", 0), k8s_a=learned(nodes=[node(1, same)], cluster=same))
    assert names(found) == ["h1", "h2"]
    assert rows["k8s-a"].problem == "it has id 7, as the cluster c has: nothing of it is taken"
    assert rows["k8s-a"].refused == 1


def test_what_was_learned_under_another_number_than_the_configured_one_counts_for_nothing():
    found, _rows = joined(Remote("k8s-a", 72), k8s_a=two_nodes())
    assert names(found) == ["h1", "h2"]


def test_between_other_clusters_the_first_of_the_list_has_what_both_claim():
    found, rows = joined(cluster_of("b", 2, item(11)), cluster_of("d", 3, item(12, key=key(11)), item(13)))
    assert names(found) == ["b/h11", "d/h13", "h1", "h2"]
    assert rows["d"].named[0].why == f"key {key(11)} belongs to b/h11"


def test_networks_bound_members_and_pods():
    inside = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("10.42.1.0/24"))
    found, rows = joined(Remote("k8s-a", 71, networks=inside), k8s_a=two_nodes())
    assert names(found) == ["h1", "h2", "k8s-a/node1"]
    assert rows["k8s-a"].named[0].why == "10.42.2.0/24 is outside of the networks of its cluster"
    wide = (ipaddress.ip_network("10.0.0.0/8"),)
    found, _rows = joined(
        dataclasses.replace(
            cluster_of("b", 2, item(11, addresses=["10.77.0.1"], allowedIPs=["10.64.0.0/12"])), networks=wide
        )
    )
    assert "b/h11" in names(found)


def test_others_do_not_fill_the_kernels_maps():
    theirs = two_nodes(pods=[pod(f"10.42.1.{n}", 100, 1) for n in range(10, 60)])
    found, rows = joined(Remote("k8s-a", 71), room=20, k8s_a=theirs)
    assert len(found.workloads) == 16
    assert rows["k8s-a"].refused == 34
    assert "bpf.membersMax" in rows["k8s-a"].named[0].why


def test_a_lost_node_stays_sealed_until_somebody_else_has_its_address():
    theirs = learned(nodes=[node(2)])
    gone = Departed(learned(nodes=[node(1)]).nodes.claims["node1"], 60.0)
    nodes = dataclasses.replace(theirs.nodes, departed={"node1": gone})
    found, _rows = joined(Remote("k8s-a", 71), k8s_a=dataclasses.replace(theirs, nodes=nodes))
    assert [member.name for member in found.departed] == ["k8s-a/node1"]
    taken = Claim(parse_member(item(31, addresses=["192.0.2.1"]), "t", K8S), 9)
    nodes = dataclasses.replace(nodes, claims={**nodes.claims, "h31": taken})
    found, _rows = joined(Remote("k8s-a", 71), k8s_a=dataclasses.replace(theirs, nodes=nodes))
    assert found.departed == ()
    assert node_key(1) not in {member.key for member in found.members}
