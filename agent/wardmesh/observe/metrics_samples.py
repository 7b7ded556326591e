# SPDX-License-Identifier: Apache-2.0
"""Pure: from what a scrape has read to samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from wardmesh.observe.metrics_flows import FlowTotals
from wardmesh.observe.metrics_snapshot import (
    AgentFigures,
    Counted,
    Delays,
    HealthFigures,
    MapFill,
    PeerFigures,
    Snapshot,
)

PEERS_MAX = 1000  # peers with series of their own unless the configuration says otherwise
TUNNELS = ("up", "down", "pending")
_CONNTRACK = {"4": "IPv4", "6": "IPv6"}
_ENFORCED = {(False, False): "none", (True, False): "ingress", (False, True): "egress", (True, True): "both"}


@dataclass(frozen=True)
class Sample:
    """One series of a metric: label values in the table's order. delays: instead of a value, a histogram."""

    metric: str
    labels: tuple[str, ...]
    value: float
    delays: Delays | None = None


def samples(snapshot: Snapshot, flows: FlowTotals | None = None, peers_max: int = PEERS_MAX) -> list[Sample]:
    """All of them; metric by metric is up to the exposition."""
    found = [Sample("wardmesh_agent_up", (), float(snapshot.agent is not None))]
    if snapshot.agent is not None:
        found += _agent(snapshot.agent)
        found += _fleet(snapshot.agent, snapshot.health)
        found += _clusters(snapshot.agent)
        found += _peers(snapshot.agent.peers, snapshot.now, peers_max)
        found += _policy(snapshot.agent)
        if snapshot.health is not None:
            found += _health(snapshot.agent, snapshot.health, peers_max)
    if snapshot.enforced is not None:
        found += _enforcement(snapshot.enforced)
    found += _packets(snapshot.counted)
    found += _maps(snapshot.maps)
    found += _files(snapshot)
    if flows is not None:
        found += _flows(flows)
    found += [
        Sample("wardmesh_scrape_errors", (source,), float(source in snapshot.failed))
        for source in snapshot.sources
    ]
    found.append(Sample("wardmesh_scrape_duration_seconds", (), snapshot.seconds))
    return found


def _agent(agent: AgentFigures) -> Iterator[Sample]:
    yield Sample("cilium_version", (agent.version,), 1)
    yield Sample("wardmesh_agent_start_time_seconds", (), agent.since)
    yield Sample("wardmesh_problems", (), agent.problems)
    if agent.bootstrap is not None:
        yield Sample("cilium_agent_bootstrap_seconds", ("overall", "success"), agent.bootstrap)
    for level, count in agent.logged.items():
        yield Sample("cilium_errors_warnings_total", (level, "agent"), count)
    yield Sample("cilium_endpoint_state", ("ready",), float(bool(agent.name)))
    yield Sample("wardmesh_strict_mode", (), float(agent.mode == "strict"))
    yield Sample("wardmesh_strict_wanted", (), float(agent.wish == "strict"))
    if agent.key_since:
        yield Sample("wardmesh_key_created_timestamp_seconds", (), agent.key_since)


def _fleet(agent: AgentFigures, health: HealthFigures | None) -> Iterator[Sample]:
    """Reachability by the checks of the peers; where they are off, by the tunnels."""
    yield Sample("wardmesh_fleet_generation", (), agent.generation)
    if agent.map_since:
        yield Sample("wardmesh_fleet_map_timestamp_seconds", (), agent.map_since)
    up = sum(peer.tunnel == "up" for peer in agent.peers)
    counts = {"reachable": up, "unreachable": len(agent.peers) - up}
    if health is not None:
        counts = dict(Counter(peer.state for peer in health.peers))
    yield Sample("cilium_unreachable_nodes", (), counts.get("unreachable", 0))
    for status, count in {"reachable": 0, "unreachable": 0, **counts}.items():
        labels = (agent.cluster, agent.name, "node", status)
        yield Sample("cilium_node_health_connectivity_status", labels, count)


def _clusters(agent: AgentFigures) -> Iterator[Sample]:
    """The store of the members, and the other clusters."""
    if agent.store is not None:
        yield Sample("wardmesh_store_connected", (), float(agent.store))
    if agent.clusters:
        here = (agent.cluster, agent.name)
        yield Sample("cilium_clustermesh_remote_clusters", here, len(agent.clusters))
        for other in agent.clusters:
            labels = (*here, other.name)
            yield Sample("cilium_clustermesh_remote_cluster_nodes", labels, other.nodes)
            yield Sample("cilium_clustermesh_remote_cluster_readiness_status", labels, float(other.ready))


def _health(agent: AgentFigures, health: HealthFigures, most: int) -> Iterator[Sample]:
    yield Sample("wardmesh_health_cycle_seconds", (), health.cycle)
    for primary, protocol, delays in health.latencies:
        labels = (
            agent.cluster,
            agent.name,
            "node",
            "primary" if primary else "secondary",
            protocol,
        )
        yield Sample("cilium_node_health_connectivity_latency_seconds", labels, 0, delays)
    found = sorted(health.peers, key=lambda peer: (peer.state == "reachable", peer.name))[:most]
    for peer in sorted(found, key=lambda peer: peer.name):
        label = (peer.name,)
        if peer.state != "unknown":
            yield Sample("wardmesh_peer_reachable", label, float(peer.state == "reachable"))
        for name, value in (
            ("wardmesh_peer_latency_seconds", peer.latency),
            ("cilium_node_packet_loss_ratio", peer.loss),
            ("cilium_node_jitter_seconds", peer.jitter),
        ):
            if value is not None:
                yield Sample(name, label, value)


def shown_peers(peers: Iterable[PeerFigures], most: int) -> list[PeerFigures]:
    """Peers that get series: those that are not up first, then by name, so that the choice is steady."""
    found = sorted(peers, key=lambda peer: (peer.tunnel == "up", peer.name))
    return sorted(found[:most], key=lambda peer: peer.name)


def _peers(peers: tuple[PeerFigures, ...], now: float, most: int) -> Iterator[Sample]:
    states = Counter(peer.tunnel for peer in peers)
    for tunnel in TUNNELS:
        yield Sample("cilium_wireguard_peers", (tunnel,), states[tunnel])
    yield Sample("wardmesh_peers_sealed", (), sum(peer.sealed for peer in peers))
    shown = shown_peers(peers, most)
    yield Sample("wardmesh_peers_without_series", (), len(peers) - len(shown))
    for peer in shown:
        label = (peer.name,)
        age = max(0.0, now - peer.last_handshake) if peer.last_handshake else float("inf")
        yield Sample("cilium_wireguard_peer_last_handshake_seconds", label, round(age, 3))
        yield Sample("cilium_wireguard_peer_rx_bytes_total", label, peer.rx_bytes)
        yield Sample("cilium_wireguard_peer_tx_bytes_total", label, peer.tx_bytes)
        yield Sample("wardmesh_peer_up", label, float(peer.tunnel == "up"))


def _policy(agent: AgentFigures) -> Iterator[Sample]:
    yield Sample("cilium_policy", (), agent.policies)
    yield Sample("cilium_policy_max_revision", (), agent.revision)
    yield Sample("wardmesh_policy_info", (agent.policy_digest,), 1)
    if agent.policy_delays is not None:
        yield Sample("cilium_policy_implementation_delay", ("directory",), 0, agent.policy_delays)


def _enforcement(words: tuple[str, str]) -> Iterator[Sample]:
    """Upstream's values: none, ingress, egress, both, and the same with audit- before them."""
    audit = any("Audit" in word for word in words)
    ways = tuple(word == "Enabled" or "Audit" in word for word in words)
    name = _ENFORCED[ways[0], ways[1]]
    yield Sample("cilium_policy_endpoint_enforcement_status", (f"audit-{name}" if audit else name,), 1)


def _packets(counted: tuple[Counted, ...]) -> Iterator[Sample]:
    drops: dict[tuple[str, str], list[int]] = {}
    passed: dict[str, list[int]] = {}
    for row in counted:
        way = row.direction.upper()
        if row.dropped:
            sums = drops.setdefault((row.reason, way), [0, 0])
        else:
            yield Sample(f"wardmesh_{row.part}_packets_total", (row.reason, way), row.packets)
            if row.part != "guard":
                continue
            sums = passed.setdefault(way, [0, 0])
        sums[0] += row.packets
        sums[1] += row.bytes
    for labels, (packets, size) in drops.items():
        yield Sample("cilium_drop_count_total", labels, packets)
        yield Sample("cilium_drop_bytes_total", labels, size)
    for way, (packets, size) in passed.items():
        yield Sample("cilium_forward_count_total", (way,), packets)
        yield Sample("cilium_forward_bytes_total", (way,), size)


def _maps(maps: tuple[MapFill, ...]) -> Iterator[Sample]:
    entries: dict[str, int] = {}
    capacity: dict[str, int] = {}
    for item in maps:
        yield Sample("cilium_bpf_map_capacity", (item.name,), item.capacity)
        if not item.fixed and item.capacity:
            yield Sample("cilium_bpf_map_pressure", (item.name,), round(item.entries / item.capacity, 6))
        if item.name in ("firewall/flows4", "firewall/flows6"):
            family = _CONNTRACK[item.name[-1]]
            entries[family], capacity[family] = item.entries, item.capacity
    for family, count in entries.items():
        yield Sample("wardmesh_conntrack_entries", (family,), count)
        yield Sample("wardmesh_conntrack_capacity", (family,), capacity[family])


def _files(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.encrypt_cpu is not None:
        yield Sample("cilium_encrypt_cpu_seconds_total", (), snapshot.encrypt_cpu)
    for kind, count in (snapshot.identities or {}).items():
        yield Sample("cilium_identity", (kind,), count)
    for name, end in (snapshot.certificates or {}).items():
        yield Sample("certmanager_certificate_expiration_timestamp_seconds", (name,), end)


def _flows(flows: FlowTotals) -> Iterator[Sample]:
    parts: tuple[tuple[str, Mapping[tuple[str, ...], int]], ...] = (
        ("hubble_flows_processed_total", flows.processed),
        ("hubble_drop_total", flows.drops),
        ("hubble_tcp_flags_total", flows.flags),
        ("hubble_icmp_total", flows.icmp),
        ("hubble_port_distribution_total", flows.ports),
        ("hubble_lost_events_total", flows.lost),
    )
    for name, counts in parts:
        for labels, count in sorted(counts.items()):
            yield Sample(name, labels, count)
