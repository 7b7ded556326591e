# SPDX-License-Identifier: Apache-2.0
"""Records of another cluster's store, as members and pods; broken, foreign and too many ones."""

from __future__ import annotations

import ipaddress
import json

import pytest
from tests.unit.agent.discovery.kubernetes import K8S, identity, labels_of, node, pod

from wardmesh.discovery import remote_roll
from wardmesh.discovery.backend import Change, Entry
from wardmesh.discovery.keys import NODES, NUMBERS, PAIRS
from wardmesh.discovery.learned import read_learned, write_learned
from wardmesh.discovery.remote_roll import RemoteRoll
from wardmesh.model.errors import WardmeshError


def roll(*, nodes=(), identities=(), pods=(), cached=False) -> RemoteRoll:
    made = RemoteRoll(K8S, 60.0, cached)
    for kind, entries in ((NUMBERS, identities), (NODES, nodes), (PAIRS, pods)):
        made.snapshot(kind, entries)
    return made


def full() -> RemoteRoll:
    return roll(
        nodes=[node(1), node(2)],
        identities=[identity(100, app="frontend"), identity(101, app="other")],
        pods=[pod("10.42.1.5", 100, 1, "default/web-0"), pod("10.42.2.5", 101, 2)],
    )


def test_nodes_are_members_with_their_pods_networks_and_without_their_labels():
    member = full().found().nodes.claims["node1"].member
    assert (member.name, member.cluster, member.kubernetes) == ("k8s-a/node1", K8S, True)
    assert [str(network) for network in member.networks()] == ["192.0.2.1/32", "10.42.1.0/24"]
    assert member.labels == {}


def test_pods_have_the_labels_of_their_identity():
    found = full().found()
    assert [(str(p.address), p.identity & 0xFFFF, str(p.host), p.name) for p in found.pods] == [
        ("10.42.1.5", 100, "192.0.2.1", "default/web-0"),
        ("10.42.2.5", 101, "192.0.2.2", ""),
    ]
    assert "k8s:app=frontend" in found.identities[K8S.id << 16 | 100]


def test_a_pod_waits_for_its_identity_and_goes_with_its_record():
    made = roll(nodes=[node(1)], pods=[pod("10.42.1.5", 100, 1)])
    assert (made.found().pods, made.unresolved) == ((), 1)
    entry = identity(100, app="web")
    made.take(NUMBERS, Change(entry.key, entry))
    assert made.taken()
    assert (len(made.found().pods), made.unresolved) == (1, 0)
    made.take(PAIRS, Change(pod("10.42.1.5", 100, 1).key, None))
    assert made.found().pods == ()


def test_a_new_listing_forgets_what_it_does_not_have():
    made = full()
    made.snapshot(PAIRS, [pod("10.42.2.5", 101, 2)])
    made.snapshot(NUMBERS, [identity(101, app="other")])
    made.snapshot(NODES, [node(2)])
    assert [str(p.address) for p in made.found().pods] == ["10.42.2.5"]
    assert set(made.nodes.claims) == {"node1", "node2"}, "a node gets its time"
    made.tick(remote_roll.MISSING)
    assert set(made.nodes.claims) == {"node2"}
    assert set(made.found().nodes.departed) == {"node1"}


def test_what_did_not_change_is_no_change():
    made = full()
    assert made.taken()
    for kind, entry in ((NUMBERS, identity(100, app="frontend")), (PAIRS, pod("10.42.2.5", 101, 2))):
        made.take(kind, Change(entry.key, entry))
    made.snapshot(NODES, [node(1), node(2)])
    assert not made.taken()


def test_the_layout_for_several_clusters_is_read_as_well():
    entries = [
        Entry(e.key.replace("state/ip/v1/default", "cache/ip/v1/k8s-a"), e.value, 1, 1)
        for e in [pod("10.42.1.5", 100, 1)]
    ]
    numbers = [
        Entry(e.key.replace("state/identities/v1/id", "cache/identities/v1/k8s-a/id"), e.value, 1, 1)
        for e in [identity(100, app="x")]
    ]
    nodes = [Entry(e.key.replace("state", "cache"), e.value, 1, 1) for e in [node(1)]]
    found = roll(nodes=nodes, identities=numbers, pods=entries, cached=True).found()
    assert (len(found.pods), len(found.nodes.claims)) == (1, 1)


def bad(kind: str, entry: Entry) -> RemoteRoll:
    made = full()
    before = made.found()
    made.take(kind, Change(entry.key, entry))
    assert made.found() == before, "a bad record changes nothing"
    return made


@pytest.mark.parametrize(
    ("kind", "entry", "why"),
    [
        (NODES, node(3, ClusterID=2), "cluster 'k8s-a', 2; expected is"),
        (NODES, node(3, Cluster="other"), "cluster 'other'"),
        (NODES, node(3, WireguardPubKey=""), "no WireGuard key"),
        (NODES, node(3, WireguardPubKey="AAAA"), "32 bytes"),
        (NODES, node(3, IPAddresses=[]), "no address"),
        (NODES, node(3, IPv4AllocCIDR={"IP": "0.0.0.0", "Mask": "AAAAAA=="}), "whole address space"),
        (NODES, node(3, Name="node4"), "it is the record of"),
        (NUMBERS, identity(100, cluster="other", app="x"), "do not name the cluster"),
        (NUMBERS, identity(1 << 16, app="x"), "is none of a cluster with id"),
        (NUMBERS, Entry("cilium/state/identities/v1/id/x", b"k8s:a=b;", 1, 1), "no identity's number"),
        (NUMBERS, Entry(identity(100).key, b"", 1, 1), "no labels"),
        (NUMBERS, Entry(identity(100).key, b"\xff", 1, 1), "UTF-8"),
        (NUMBERS, Entry(identity(100).key, b"k" * 70000, 1, 1), "bytes"),
        (NUMBERS, identity(100, **{f"l{n}": "x" for n in range(200)}), "labels, at most"),
        (PAIRS, pod("10.42.1.5", 1 << 16, 1), "is none of a cluster with id"),
        (PAIRS, pod("224.0.0.5", 100, 1), "cannot be a pod's"),
        (PAIRS, Entry(pod("10.42.1.6", 1, 1).key, pod("10.42.1.7", 1, 1).value, 1, 1), "it is the record of"),
        (PAIRS, Entry(pod("10.42.1.6", 1, 1).key, b"{", 1, 1), "not JSON"),
    ],
)
def test_a_bad_record_is_named_and_replaces_nothing(kind, entry, why):
    made = bad(kind, entry)
    assert why in {**made.skipped, **made.nodes.skipped}[entry.key]


def test_a_hosts_own_address_and_a_subnet_are_no_pods():
    made = full()
    for entry in (pod("192.0.2.1", None, 1), pod("10.42.9.0", 100, 1, mask="////AA==")):
        made.take(PAIRS, Change(entry.key, entry))
    assert len(made.found().pods) == 2
    assert not made.skipped


def test_nobody_is_another_by_a_label():
    entry = identity(100, app="x", cluster_="own", node="h1")
    made = roll(nodes=[node(1)], identities=[entry], pods=[pod("10.42.1.5", 100, 1)])
    assert made.found().identities[K8S.id << 16 | 100] == labels_of(app="x")
    entry = Entry(entry.key, entry.value + b"reserved:host=;any:io.cilium.k8s.policy.cluster=own;", 1, 1)
    made.take(NUMBERS, Change(entry.key, entry))
    assert made.found().identities[K8S.id << 16 | 100] == labels_of(app="x")


def test_each_kind_has_a_limit(monkeypatch):
    monkeypatch.setattr(remote_roll, "MOST_NODES", 2)
    monkeypatch.setattr(remote_roll, "MOST_IDENTITIES", 2)
    monkeypatch.setattr(remote_roll, "MOST_PODS", 2)
    made = roll(
        nodes=[node(n) for n in range(1, 6)],
        identities=[identity(100 + n, app="x") for n in range(5)],
        pods=[pod(f"10.42.1.{n}", 100, 1) for n in range(1, 6)],
    )
    assert (len(made.nodes.claims), len(made.labels), len(made.pods)) == (2, 2, 2)
    assert len(made.skipped) + len(made.nodes.skipped) == 9


def test_the_file_says_the_same_and_a_damaged_one_is_refused():
    found = full().found()
    data = write_learned(found)
    assert read_learned(data, "x") == found
    again = RemoteRoll(K8S, 60.0)
    again.restore(read_learned(data, "x"))
    assert again.found() == found
    document = json.loads(data)
    document["addresses"] = []
    for broken in (b"", b"[]", data[:-9], json.dumps(document).encode()):
        with pytest.raises(WardmeshError):
            read_learned(broken, "x")


def test_addresses_are_ordered_over_both_families():
    made = roll(
        nodes=[node(1)],
        identities=[identity(100, app="x")],
        pods=[pod("fd00::5", 100, 1), pod("10.42.1.5", 100, 1)],
    )
    assert [p.address for p in made.found().pods] == [
        ipaddress.ip_address("10.42.1.5"),
        ipaddress.ip_address("fd00::5"),
    ]
