# SPDX-License-Identifier: Apache-2.0
"""The table of metrics, and the way from a snapshot to samples."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from tests.unit.agent.observe.metrics_fakes import NOW, agent, peer, snapshot

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.metrics_flows import FlowCounters
from wardmesh.observe.metrics_model import BY_NAME, COUNTER, HISTOGRAM, LEFT_OUT, METRICS
from wardmesh.observe.metrics_samples import samples, shown_peers
from wardmesh.observe.metrics_snapshot import Snapshot, agent_figures

STATUS = {
    "version": "0.1.0",
    "since": 5.0,
    "cluster": "prod",
    "self": "web1",
    "generation": 7,
    "mode": "prefer",
    "wish": "strict",
    "revision": 3,
    "firewall": {"enabled": True, "audit": True, "policies": ["a", "b"], "counters": {}},
    "digests": {"policies": "0123456789abcdef"},
    "problems": ["x"],
    "peers": [
        {"name": "db1", "tunnel": "up", "sealed": True, "lastHandshake": 9.5, "rxBytes": 1, "txBytes": 2}
    ],
    "figures": {
        "bootstrapSeconds": 1.25,
        "policyDelay": {"count": 2, "sum": 0.5, "buckets": [[0.1, 1], [1.0, 2]]},
        "mapSince": 3.0,
        "keySince": 4.0,
        "log": {"error": 1, "warning": 0},
    },
}


def values(found):
    return {(sample.metric, sample.labels): sample.value for sample in found}


def test_names_are_unique_and_of_prometheus_form():
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"(cilium|hubble|wardmesh|certmanager)_[a-z0-9_]+", metric.name)
        assert metric.help.endswith(".")
        assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)


def test_counters_and_only_they_end_in_total():
    assert {m.name for m in METRICS if m.kind == COUNTER} == {
        m.name for m in METRICS if m.name.endswith("_total")
    }


def test_what_is_left_out_is_not_in_the_table():
    patterns = [word for names, _why in LEFT_OUT for word in names.split(", ")]
    for pattern in patterns:
        expression = re.compile(pattern.replace("*", ".*"))
        assert [name for name in BY_NAME if expression.fullmatch(name)] == [], pattern


def test_every_sample_fits_the_table_and_every_metric_has_one():
    flows = FlowCounters()
    flows.lose(1, 3)
    found = samples(snapshot(300), flows.totals())
    for sample in found:
        assert len(sample.labels) == len(BY_NAME[sample.metric].labels), sample
        assert (sample.delays is not None) is (BY_NAME[sample.metric].kind == HISTOGRAM)
    keys = [(sample.metric, sample.labels) for sample in found]
    assert len(keys) == len(set(keys))
    fed_by_events = {name for name in BY_NAME if name.startswith("hubble_")} - {"hubble_lost_events_total"}
    assert {name for name, _labels in keys} == set(BY_NAME) - fed_by_events


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("wardmesh_agent_up", (), 1),
        ("wardmesh_strict_mode", (), 1),
        ("cilium_unreachable_nodes", (), 1),
        ("cilium_wireguard_peers", ("up",), 98),
        ("cilium_wireguard_peers", ("down",), 1),
        ("cilium_wireguard_peers", ("pending",), 1),
        ("cilium_node_health_connectivity_status", ("prod", "web1", "node", "unreachable"), 1),
        ("cilium_node_health_connectivity_status", ("prod", "web1", "node", "unknown"), 1),
        ("wardmesh_peer_reachable", ("host-00000",), 0),
        ("wardmesh_peer_reachable", ("host-00007",), 1),
        ("cilium_node_packet_loss_ratio", ("host-00000",), 1.0),
        ("wardmesh_health_cycle_seconds", (), 50.0),
        ("cilium_wireguard_peer_last_handshake_seconds", ("host-00007",), 7),
        ("cilium_wireguard_peer_last_handshake_seconds", ("host-00001",), math.inf),
        ("wardmesh_peer_up", ("host-00000",), 0),
        ("cilium_drop_count_total", ("Invalid packet", "INGRESS"), 3),
        ("cilium_drop_bytes_total", ("Policy denied", "INGRESS"), 240),
        ("cilium_forward_count_total", ("INGRESS",), 110),
        ("wardmesh_firewall_packets_total", ("Allowed", "EGRESS"), 50),
        ("cilium_bpf_map_pressure", ("firewall/flows4",), 0.9),
        ("wardmesh_conntrack_entries", ("IPv4",), 900),
        ("cilium_policy_endpoint_enforcement_status", ("ingress",), 1),
        ("cilium_policy_max_revision", (), 12),
        ("wardmesh_scrape_errors", ("firewall",), 1),
        ("wardmesh_scrape_errors", ("agent",), 0),
        ("cilium_errors_warnings_total", ("warning", "agent"), 5),
    ],
)
def test_figures_come_out_as(name, labels, value):
    assert values(samples(snapshot(100)))[name, labels] == value


def test_without_checks_the_tunnels_say_who_is_reachable():
    found = values(samples(replace(snapshot(100), health=None)))
    assert found["cilium_unreachable_nodes", ()] == 2
    assert found["cilium_node_health_connectivity_status", ("prod", "web1", "node", "unreachable")] == 2
    assert not any(name == "wardmesh_peer_reachable" for name, _labels in found)


def test_series_of_checks_are_bounded_and_begin_with_who_does_not_answer():
    found = values(samples(snapshot(500), peers_max=10))
    shown = {labels[0] for name, labels in found if name == "cilium_node_packet_loss_ratio"}
    assert {"host-00000", "host-00100", "host-00200", "host-00300", "host-00400"} <= shown
    assert len(shown) <= 10


def test_a_peer_that_was_not_checked_has_no_invented_figures():
    found = values(samples(snapshot(100)))
    assert ("wardmesh_peer_reachable", ("host-00001",)) not in found
    assert ("wardmesh_peer_latency_seconds", ("host-00001",)) not in found


def test_maps_that_are_always_full_have_no_pressure():
    found = values(samples(snapshot()))
    assert ("cilium_bpf_map_pressure", ("guard/metrics",)) not in found
    assert found["cilium_bpf_map_capacity", ("guard/metrics",)] == 1024


def test_a_handshake_in_the_future_is_no_negative_age():
    shot = replace(snapshot(), agent=agent((replace(peer(5), last_handshake=NOW + 60),)))
    assert values(samples(shot))["cilium_wireguard_peer_last_handshake_seconds", ("host-00005",)] == 0


def test_without_an_agent_the_kernels_figures_stay():
    found = values(samples(replace(snapshot(), agent=None, enforced=None)))
    assert found["wardmesh_agent_up", ()] == 0
    assert found["cilium_drop_count_total", ("Policy denied", "INGRESS")] == 4
    assert not any(name.startswith("cilium_wireguard") for name, _labels in found)


def test_an_empty_snapshot_has_no_invented_figures():
    assert {sample.metric for sample in samples(Snapshot(now=NOW))} == {
        "wardmesh_agent_up",
        "wardmesh_scrape_duration_seconds",
    }


@pytest.mark.parametrize(
    ("words", "enforcement"),
    [
        (("Disabled", "Disabled"), "none"),
        (("Enabled", "Disabled"), "ingress"),
        (("Disabled", "Enabled"), "egress"),
        (("Enabled", "Enabled"), "both"),
        (("Disabled (Audit)", "Disabled"), "audit-ingress"),
        (("Disabled (Audit)", "Disabled (Audit)"), "audit-both"),
    ],
)
def test_enforcement_has_upstreams_words(words, enforcement):
    found = samples(replace(snapshot(), enforced=words))
    assert [s.labels for s in found if s.metric == "cilium_policy_endpoint_enforcement_status"] == [
        (enforcement,)
    ]


def test_peers_in_trouble_are_shown_first_and_the_rest_is_counted():
    peers = (*(peer(number) for number in range(50)), peer(98, "down"), peer(99, "pending"))
    shown = shown_peers(peers, 10)
    assert {"host-00098", "host-00099", "host-00000"} <= {item.name for item in shown}
    found = values(samples(replace(snapshot(), agent=agent(peers)), None, 10))
    assert found["wardmesh_peers_without_series", ()] == 42
    assert sum(name == "wardmesh_peer_up" for name, _labels in found) == 10
    assert found["cilium_wireguard_peers", ("up",)] == 50  # sums count everybody


def test_status_becomes_figures():
    found = agent_figures(STATUS)
    assert (found.name, found.mode, found.wish, found.generation) == ("web1", "prefer", "strict", 7)
    assert (found.policies, found.audit, found.policy_digest) == (2, True, "0123456789ab")
    assert found.peers[0].last_handshake == 9.5
    assert (found.bootstrap, found.key_since, found.map_since) == (1.25, 4.0, 3.0)
    assert found.policy_delays is not None
    assert found.policy_delays.buckets == ((0.1, 1), (1.0, 2))


def test_an_older_agents_status_is_taken_and_lacks_figures():
    document = {key: value for key, value in STATUS.items() if key != "figures"}
    found = agent_figures(document)
    assert (found.bootstrap, found.policy_delays, dict(found.logged)) == (None, None, {})
    names = {sample.metric for sample in samples(replace(snapshot(), agent=found))}
    assert "cilium_agent_bootstrap_seconds" not in names
    assert "wardmesh_key_created_timestamp_seconds" not in names


def test_stores_and_clusters_are_told_where_there_are_any():
    row = {"name": "site-b", "nodes": 3, "ready": False, "problems": ["x"]}
    found = agent_figures({**STATUS, "clustermesh": [row], "discovery": {"connected": False}})
    told = values(samples(replace(snapshot(), agent=found)))
    assert told["wardmesh_store_connected", ()] == 0
    assert told["cilium_clustermesh_remote_clusters", ("prod", "web1")] == 1
    assert told["cilium_clustermesh_remote_cluster_nodes", ("prod", "web1", "site-b")] == 3
    assert told["cilium_clustermesh_remote_cluster_readiness_status", ("prod", "web1", "site-b")] == 0
    alone = values(samples(replace(snapshot(), agent=agent_figures(STATUS))))
    assert not any("store" in name or "clustermesh" in name for name, _labels in alone)


@pytest.mark.parametrize(
    "change",
    [
        {"peers": None},
        {"discovery": {}},
        {"clustermesh": [{"name": "x"}]},
        {"peers": [{"name": "x"}]},
        {"firewall": []},
        {"generation": "many"},
        {"figures": {"log": 3}},
        {"figures": {"policyDelay": {"count": 1}}},
        {"digests": None},
    ],
)
def test_a_status_of_another_form_is_one_error_with_a_remedy(change):
    with pytest.raises(WardmeshError) as caught:
        agent_figures({**STATUS, **change})
    assert caught.value.remedy
