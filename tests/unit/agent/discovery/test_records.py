# SPDX-License-Identifier: Apache-2.0
"""Cilium's records, read and written; and everything that is no record."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.budget import fuzz
from tests.unit.agent.discovery.samples import CLUSTER, entry, key, member

from wardmesh.discovery.keys import node_key, prefix_end
from wardmesh.discovery.members import member_of, node_of
from wardmesh.discovery.records import (
    ClusterConfig,
    IpPair,
    Node,
    read_cluster,
    read_identity,
    read_ip,
    read_node,
    write_cluster,
    write_identity,
    write_ip,
    write_node,
)
from wardmesh.model.errors import WardmeshError

KEY = node_key("c", "h1")


def record(**more: Any) -> dict[str, Any]:
    base = {
        "Name": "h1",
        "Cluster": "c",
        "ClusterID": 7,
        "IPAddresses": [{"Type": "InternalIP", "IP": "192.0.2.1"}],
        "WireguardPubKey": key(1),
    }
    return {**base, **more}


def read(document: Any) -> Node:
    return read_node(KEY, json.dumps(document).encode())


def test_a_record_of_a_kubernetes_node_is_read() -> None:
    node = read(
        record(
            IPAddresses=[
                {"Type": "CiliumInternalIP", "IP": "10.71.5.1"},
                {"Type": "Hostname", "IP": "192.0.2.99"},
                {"Type": "ExternalIP", "IP": "203.0.113.5"},
                {"Type": "InternalIP", "IP": "192.0.2.1"},
            ],
            IPv4AllocCIDR={"IP": "10.71.5.0", "Mask": "////AA=="},
            IPv6AllocCIDR="fd00:71::/64",
            Labels={"kubernetes.io/os": "linux"},
            Annotations=None,
            EncryptionKey=255,
            NodeIdentity=1,
            SomethingNewer={"a": [1]},
        )
    )
    assert list(map(str, node.node_addresses())) == ["192.0.2.1", "203.0.113.5"]
    assert list(map(str, node.networks)) == ["10.71.5.0/24", "fd00:71::/64"]
    assert node.labels == {"kubernetes.io/os": "linux"}


def test_names_of_fields_match_in_any_case_and_null_is_zero() -> None:
    node = read({**{name.lower(): value for name, value in record().items()}, "Labels": None, "BootID": None})
    assert (node.name, node.labels, node.boot_id) == ("h1", {}, "")


@pytest.mark.parametrize(
    "change",
    [
        {"ClusterID": "7"},
        {"ClusterID": -1},
        {"ClusterID": 1 << 32},
        {"ClusterID": True},
        {"EncryptionKey": 256},
        {"IPAddresses": [{"Type": "InternalIP", "IP": "192.0.2.300"}]},
        {"IPAddresses": {}},
        {"IPAddresses": [7]},
        {"Labels": {"a": 1}},
        {"Labels": []},
        {"Name": ""},
        {"Name": "h2"},
        {"Name": ["h1"]},
        {"Cluster": None},
        {"IPv4AllocCIDR": {"IP": "10.0.0.0", "Mask": "/wD/AA=="}},
        {"IPv4AllocCIDR": {"IP": "10.0.0.0", "Mask": "%%"}},
        {"IPv4AllocCIDR": {"IP": "10.0.0.0", "Mask": "//////////8AAAAAAAAAAA=="}},
        {"IPv4AllocCIDR": "10.0.0.0/40"},
    ],
)
def test_one_wrong_field_rejects_the_record_and_names_its_key(change: dict[str, Any]) -> None:
    with pytest.raises(WardmeshError) as caught:
        read(record(**change))
    assert caught.value.where.startswith(KEY)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 70_000, b'{"Name":"' + b"x" * 70_000 + b'"}']
)
def test_what_is_no_object_is_rejected(data: bytes) -> None:
    with pytest.raises(WardmeshError):
        read_node(KEY, data)


@fuzz(100)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_error_of_ours(data: bytes) -> None:
    for reader in (read_node, read_ip, read_identity, read_cluster):
        try:
            reader(KEY, data)
        except WardmeshError:
            pass


SCALARS = st.sampled_from([None, True, 0, -1, 1.5, 1 << 40, "", "c", "10.0.0.1", "////AA=="])
JSON = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(st.sampled_from(["IP", "Type", "Mask", "a"]), SCALARS)
)
FIELDS = st.sampled_from(
    [
        "Name",
        "Cluster",
        "ClusterID",
        "IPAddresses",
        "Labels",
        "Annotations",
        "WireguardPubKey",
        "IPv4AllocCIDR",
    ]
)


@fuzz(100)
@given(st.dictionaries(FIELDS, JSON | st.lists(JSON, max_size=2), max_size=3))
def test_any_wrong_field_is_an_error_of_ours_or_a_member(changes: dict[str, Any]) -> None:
    try:
        member_of(read(record(**changes)), CLUSTER, KEY)
    except WardmeshError as error:
        assert error.why


@given(
    st.integers(1, 60_000),
    st.dictionaries(st.sampled_from(["app", "env", "a/b"]), st.sampled_from(["", "x", "1.2_3"])),
    st.booleans(),
)
def test_a_member_survives_its_own_record(number: int, labels: dict[str, str], rich: bool) -> None:
    more: dict[str, Any] = (
        {"endpoint": "203.0.113.9:4000", "keepalive": 25, "allowedIPs": ["172.16.0.0/24", "fd00::/64"]}
        if rich
        else {}
    )
    found = member(number, labels=labels, **more)
    data = write_node(node_of(found, CLUSTER, labels))
    where = node_key("c", found.name)
    assert member_of(read_node(where, data), CLUSTER, where) == found


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"Cluster": "other"}, "cluster"),
        ({"ClusterID": 8}, "cluster"),
        ({"WireguardPubKey": ""}, "no WireGuard key"),
        ({"WireguardPubKey": "short"}, "32 bytes"),
        ({"IPAddresses": []}, "no address"),
        ({"IPAddresses": [{"Type": "InternalIP", "IP": "127.0.0.1"}]}, "cannot be"),
        ({"Annotations": {"wardmesh.io/format": "2"}}, "newer"),
        ({"Annotations": {"wardmesh.io/endpoint": "nowhere"}}, "ADDRESS:PORT"),
        ({"Annotations": {"wardmesh.io/keepalive": "-1"}}, "seconds"),
        ({"Annotations": {"wardmesh.io/allowed-ips": "0.0.0.0/0"}}, "whole address space"),
        ({"Labels": {"node": "h2"}}, "agent's own"),
        ({"Labels": {"cluster": "other"}}, "agent's own"),
        ({"Labels": {"a b": ""}}, "no label key"),
        ({"Labels": {"a": "x;y"}}, "no label value"),
        ({"Labels": {f"l{number}": "" for number in range(200)}}, "labels"),
    ],
)
def test_a_record_that_is_no_member_of_this_cluster_says_why(change: dict[str, Any], word: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        member_of(read(record(**change)), CLUSTER, KEY)
    assert word in caught.value.why


def test_prefixes_are_written_as_objects_with_the_mask_in_base64() -> None:
    node = Node("h1", "c", 7, (), networks=(ipaddress.ip_network("10.71.5.0/24"),))
    document = json.loads(write_node(node))
    assert document["IPv4AllocCIDR"] == {"IP": "10.71.5.0", "Mask": "////AA=="}
    assert document["IPv4HealthIP"] == ""


@pytest.mark.parametrize(
    ("pair", "remainder"),
    [
        (
            IpPair(ipaddress.ip_network("192.0.2.11"), 458753, ipaddress.ip_address("192.0.2.11")),
            "192.0.2.11",
        ),
        (IpPair(ipaddress.ip_network("192.0.2.11/32"), 6, bare=False), "192.0.2.11/32"),
        (IpPair(ipaddress.ip_network("10.71.6.0/24"), 458753, key=0, bare=False), "10.71.6.0/24"),
        (IpPair(ipaddress.ip_network("fd00::1"), 458753), "fd00::1"),
    ],
)
def test_pairs_survive_and_their_key_is_theirs(pair: IpPair, remainder: str) -> None:
    assert pair.store_key() == f"cilium/state/ip/v1/default/{remainder}"
    assert read_ip(pair.store_key(), write_ip(pair)) == pair
    assert read_ip(f"cilium/cache/ip/v1/k8s-a/{remainder}", write_ip(pair)) == pair
    with pytest.raises(WardmeshError):
        read_ip(f"cilium/state/ip/v1/default/{remainder}1", write_ip(pair))


def test_labels_of_an_identity_are_sorted_by_key_alone_and_read_as_upstream_does() -> None:
    labels = frozenset({"vm:app=web", "k8s:zone=", "k8s:a=b=c:d"})
    data = write_identity(labels)
    assert data == b"k8s:a=b=c:d;vm:app=web;k8s:zone=;"
    assert read_identity("id", data) == labels
    assert read_identity("id", b"k8s:x=a;b;") == {"k8s:x=a", "unspec:b="}
    with pytest.raises(WardmeshError):
        write_identity(frozenset({"vm:a=x;y"}))


def test_a_cluster_survives_and_needs_a_number() -> None:
    config = ClusterConfig(71, canaries=True, cached=True)
    assert read_cluster("k", write_cluster(config)) == config
    for bad in (b"{}", b'{"id":0}', b'{"id":256}', b'{"id":5,"capabilities":[]}'):
        with pytest.raises(WardmeshError):
            read_cluster("k", bad)


def test_the_end_of_a_prefix_holds_all_its_keys_and_no_other() -> None:
    end = prefix_end("cilium/state/nodes/v1/c/")
    assert b"cilium/state/nodes/v1/c/\xff" < end <= b"cilium/state/nodes/v1/c0"
    assert entry(member(1)).key.encode() < end


@pytest.mark.parametrize(
    "more", [{}, {"nextKey": key(9)}, {"nextKey": key(9), "nextEndpoint": "203.0.113.9:7"}]
)
def test_what_rotates_goes_through_a_record_and_back(more: dict[str, Any]) -> None:
    one = member(1, **more)
    found = entry(one)
    assert member_of(read_node(found.key, found.value), CLUSTER, found.key) == one
