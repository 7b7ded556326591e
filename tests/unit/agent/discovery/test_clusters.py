# SPDX-License-Identifier: Apache-2.0
"""clustermesh.config: what loads, and what is refused with its place in the list."""

from __future__ import annotations

import pytest
from tests.unit.agent.discovery.samples import key

from wardmesh.cli.main import main
from wardmesh.discovery.clusters import Remote, read_clusters
from wardmesh.model.config import Cluster, parse_config
from wardmesh.model.errors import WardmeshError

HEAD = "cluster: {name: own, id: 1}\n"


def read(clusters: str, head: str = HEAD, enabled: str = "") -> tuple[Remote, ...]:
    text = f"{head}clustermesh: {{config: {{{enabled}clusters: {clusters}}}}}\n"
    config = parse_config(text, "test")
    assert not [name for name in config.inactive if name.startswith("clustermesh")]
    return read_clusters(config)


def test_a_store_by_address_as_operators_of_cilium_write_it():
    other = read("[{name: k8s-cluster, address: '10.0.0.100:2379'}]")[0]
    assert (other.name, other.id) == ("k8s-cluster", 0)
    assert other.store is not None
    assert [(server.target, server.tls) for server in other.store.servers] == [("10.0.0.100:2379", False)]


def test_a_store_with_certificates_users_and_several_servers():
    other = read(
        "[{name: b, id: 2, address: ['https://[fd00::1]:2379', 'https://s2'], networks: [10.2.0.0/16],"
        " tls: {ca: /x/ca, cert: /x/crt, key: /x/key, serverName: etcd.b}}]"
    )[0]
    assert other.store is not None
    assert [server.target for server in other.store.servers] == ["[fd00::1]:2379", "s2:2379"]
    assert (other.store.server_name, str(other.store.cert)) == ("etcd.b", "/x/crt")
    assert [str(network) for network in other.networks] == ["10.2.0.0/16"]
    with_tls = read("[{name: b, id: 2, address: 's:1', tls: {ca: /x/ca}, username: u, passwordFile: /x/p}]")[
        0
    ]
    assert with_tls.store is not None
    assert with_tls.store.servers[0].tls
    assert with_tls.store.username == "u"


def test_nodes_in_the_words_of_a_fleet_map_and_of_an_inventory():
    one = (
        f"{{name: h1, key: '{key(1)}', addresses: [10.2.0.1], endpoint: '203.0.113.2:40000', keepalive: 25}}"
    )
    two = f"{{address: 10.2.0.2, publicKey: '{key(2)}', labels: {{app: db}}, allowedIPs: [10.3.0.0/24]}}"
    other = read(f"[{{name: b, id: 2, nodes: [{one}, {two}, 10.2.0.3]}}]")[0]
    assert [member.name for member in other.members] == ["b/h1", "b/10.2.0.2"]
    assert {member.cluster for member in other.members} == {Cluster("b", 2)}
    assert str(other.members[0].endpoint) == "203.0.113.2:40000"
    assert str(other.members[1].endpoint) == "10.2.0.2:51871"
    assert other.members[1].labels == {"app": "db"}
    assert other.keyless == ("10.2.0.3",)


def test_the_own_cluster_in_a_list_for_all_is_passed_over():
    assert read("[{name: own, address: '192.0.2.1:2379'}, {name: own2, nodes: []}]")[0].name == "own2"
    assert read("[{name: own, id: 1, nodes: [10.0.0.1]}]") == ()


def test_switched_off_nothing_counts():
    assert read("[{name: b, address: 's:1'}]", enabled="enabled: false, ") == ()


WRONG = {
    "[{name: b, id: 1, nodes: []}]": "b has id 1, as own has",
    "[{name: b, id: 2, nodes: []}, {name: c, id: 2, nodes: []}]": "c has id 2, as b has",
    "[{name: b, id: 2, nodes: []}, {name: b, id: 3, nodes: []}]": "the name b is there twice",
    "[{name: own, id: 4, nodes: []}]": "own is this host's cluster, with id 1, not 4",
    "[{name: b, id: 0, nodes: []}]": "clusters[0].id: 0 is outside of 1..255",
    "[{name: b, id: 256, nodes: []}]": "256 is outside of 1..255",
    "[{name: b, id: true, nodes: []}]": "True is outside",
    "[{name: b, id: '2', nodes: []}]": "'2' is outside",
    "[{name: B_, nodes: []}]": "clusters[0].name",
    "[{nodes: []}]": "clusters[0].name",
    "[{name: b}]": "either address or nodes",
    "[{name: b, address: 's:1', nodes: []}]": "either address or nodes",
    "[{name: b, address: 7}]": "are texts",
    "[{name: b, address: 'https://u:secret@s'}]": "clusters[0].address",
    "[{name: b, address: 's', tls: {cert: /x}}]": "clusters[0].tls",
    "[{name: b, address: 's', tls: {caCert: /x}}]": "clusters[0].tls",
    "[{name: b, address: 's', username: me}]": "clusters[0].username",
    "[{name: b, address: 'https://s', tls: {ca: relative}}]": "clusters[0].tls.ca",
    "[{name: b, nodes: [], tls: {ca: /x}}]": "clusters[0].tls: goes with address only",
    "[{name: b, nodes: 10.0.0.1}]": "clusters[0].nodes",
    "[{name: b, nodes: [nowhere]}]": "clusters[0].nodes[0]",
    "[{name: b, nodes: [[1]]}]": "clusters[0].nodes[0]",
    "[{name: b, nodes: [{address: 10.0.0.1}], id: 2}]": "clusters[0].nodes[0]: key",
    "[{name: b, nodes: [{address: 10.0.0.1, publicKey: 'KEY'}]}]": "clusters[0].id: b needs an id",
    "[{name: b, id: 2, nodes: [{address: 10.0.0.1, key: 'KEY'}, {address: 10.0.0.2, key: 'KEY'}]}]": "two",
    "[{name: b, id: 2, nodes: [{address: 10.0.0.1, key: 'KEY', labels: {node: x}}]}]": "the agent's own",
    "[{name: b, id: 2, nodes: [{addresses: [10.0.0.1], address: 10.0.0.1, key: 'KEY'}]}]": "by another name",
    "[{name: b, id: 2, nodes: [{addresses: [10.0.0.1], kubernetes: true, key: 'KEY'}]}]": "unknown key",
    "[{name: b, nodes: [], networks: [10.0.0.1/8]}]": "clusters[0].networks",
    "[{name: b, nodes: [], adress: x}]": "clusters[0].adress",
}


@pytest.mark.parametrize("clusters", WRONG)
def test_what_is_wrong_is_refused_with_its_place_and_without_a_secret(clusters, tmp_path, capsys):
    text = clusters.replace("KEY", key(9))
    with pytest.raises(WardmeshError) as caught:
        read(text)
    assert WRONG[clusters] in caught.value.why
    file = tmp_path / "config.yaml"
    file.write_text(f"{HEAD}clustermesh: {{config: {{clusters: {text}}}}}\n")
    assert main(["config", "validate", str(file)]) != 0
    assert "secret" not in capsys.readouterr().err


def test_every_problem_is_told_at_once():
    with pytest.raises(WardmeshError) as caught:
        read("[{name: b, id: 300, nodes: []}, {name: c}, {name: d, id: 1, nodes: []}]")
    assert all(word in caught.value.why for word in ("300", "c needs either", "d has id 1"))
