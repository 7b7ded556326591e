# SPDX-License-Identifier: Apache-2.0
"""Every metric, as one table; docs/reference/metrics.md is made from it.

A name begins with cilium_ or hubble_ where upstream or the seed documents gave it and it means the same
here, and with wardmesh_ else.
"""

from __future__ import annotations

from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
SUFFIXES = ("_bucket", "_count", "_sum")  # of a histogram's series

AGENT = "the agent, by its API"
HEALTH = "wardmesh-health, where healthChecking.enabled is set"
KERNEL = "the pinned maps, also while the agent is down"
FILES = "the files of this host"
FLOWS = "the flow events that the observer has read"


@dataclass(frozen=True)
class Metric:
    """Name, type, labels in order, what it says, and where the number comes from."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    source: str


_PEER = ("peer",)
_HERE = ("source_cluster", "source_node_name")

METRICS: tuple[Metric, ...] = (
    # --- the agent ---
    Metric("cilium_version", GAUGE, ("version",), "Always 1; the version of the agent that runs.", AGENT),
    Metric(
        "cilium_agent_bootstrap_seconds",
        GAUGE,
        ("scope", "outcome"),
        "Seconds from the agent's start to the end of its first pass.",
        AGENT,
    ),
    Metric("wardmesh_agent_up", GAUGE, (), "1 while the agent answers.", AGENT),
    Metric("wardmesh_agent_start_time_seconds", GAUGE, (), "When the agent started, in unix seconds.", AGENT),
    Metric("wardmesh_problems", GAUGE, (), "Problems that the agent reports now.", AGENT),
    Metric(
        "cilium_errors_warnings_total",
        COUNTER,
        ("level", "subsystem"),
        "Lines that the agent logged as error or warning since it started.",
        AGENT,
    ),
    Metric("cilium_endpoint_state", GAUGE, ("endpoint_state",), "Endpoints by state; a host is one.", AGENT),
    # --- encryption ---
    Metric("cilium_wireguard_peers", GAUGE, ("state",), "Peers by tunnel: up, down or pending.", AGENT),
    Metric(
        "cilium_wireguard_peer_last_handshake_seconds",
        GAUGE,
        _PEER,
        "Seconds since the last handshake; +Inf where there was none. An idle tunnel makes no handshakes.",
        AGENT,
    ),
    Metric("cilium_wireguard_peer_rx_bytes_total", COUNTER, _PEER, "Bytes received from a peer.", AGENT),
    Metric("cilium_wireguard_peer_tx_bytes_total", COUNTER, _PEER, "Bytes sent to a peer.", AGENT),
    Metric("wardmesh_peer_up", GAUGE, _PEER, "1 while the tunnel to a peer is up.", AGENT),
    Metric(
        "wardmesh_peers_without_series",
        GAUGE,
        (),
        "Peers beyond prometheus.peersMax: they count in the sums and have no series of their own.",
        AGENT,
    ),
    Metric("wardmesh_peers_sealed", GAUGE, (), "Peers that are reached by the tunnel or not at all.", AGENT),
    Metric("wardmesh_strict_mode", GAUGE, (), "1 while strict mode is in force.", AGENT),
    Metric("wardmesh_strict_wanted", GAUGE, (), "1 where the configuration wishes strict mode.", AGENT),
    Metric(
        "wardmesh_key_created_timestamp_seconds",
        GAUGE,
        (),
        "When the WireGuard key was made, in unix seconds.",
        AGENT,
    ),
    Metric(
        "cilium_encrypt_cpu_seconds_total",
        COUNTER,
        (),
        "CPU seconds of wireguard-go's unit, by its control group. Absent with the kernel's WireGuard, "
        "whose work is done by shared kernel threads and cannot be told apart.",
        FILES,
    ),
    Metric(
        "certmanager_certificate_expiration_timestamp_seconds",
        GAUGE,
        ("name",),
        "When a certificate below /etc/wardmesh/tls ends, in unix seconds.",
        FILES,
    ),
    # --- the fleet ---
    Metric("wardmesh_fleet_generation", GAUGE, (), "Generation of the fleet map in force.", AGENT),
    Metric(
        "wardmesh_fleet_map_timestamp_seconds",
        GAUGE,
        (),
        "When the installed fleet map was written, in unix seconds.",
        AGENT,
    ),
    Metric(
        "cilium_identity",
        GAUGE,
        ("type",),
        "Identities by type: cluster_local those of members, reserved the fixed ones.",
        FILES,
    ),
    Metric(
        "cilium_unreachable_nodes",
        GAUGE,
        (),
        "Members that answer no check; without healthChecking, members whose tunnel is not up.",
        AGENT,
    ),
    Metric(
        "cilium_node_health_connectivity_status",
        GAUGE,
        ("source_cluster", "source_node_name", "type", "status"),
        "Members by reachability, as this host sees it.",
        AGENT,
    ),
    # --- store and other clusters ---
    Metric(
        "wardmesh_store_connected",
        GAUGE,
        (),
        "1 while the store of the members answers; absent where none is configured.",
        AGENT,
    ),
    Metric("cilium_clustermesh_remote_clusters", GAUGE, _HERE, "Other clusters that are configured.", AGENT),
    Metric(
        "cilium_clustermesh_remote_cluster_nodes",
        GAUGE,
        (*_HERE, "target_cluster"),
        "Nodes of another cluster that are peers here.",
        AGENT,
    ),
    Metric(
        "cilium_clustermesh_remote_cluster_readiness_status",
        GAUGE,
        (*_HERE, "target_cluster"),
        "1 while what another cluster's store or list says is in force, and the store answers.",
        AGENT,
    ),
    # --- checks of the peers ---
    Metric(
        "cilium_node_health_connectivity_latency_seconds",
        HISTOGRAM,
        ("source_cluster", "source_node_name", "type", "address_type", "protocol"),
        "Round trips of the checks: an echo, or a whole HTTP request, over all peers.",
        HEALTH,
    ),
    Metric("wardmesh_peer_reachable", GAUGE, _PEER, "1 while a peer answers the checks.", HEALTH),
    Metric(
        "wardmesh_peer_latency_seconds",
        GAUGE,
        _PEER,
        "Mean round trip of the last checks: ICMP, or HTTP where ICMP is not answered.",
        HEALTH,
    ),
    Metric(
        "cilium_node_packet_loss_ratio",
        GAUGE,
        _PEER,
        "Share of the last thirty probes that had no answer.",
        HEALTH,
    ),
    Metric(
        "cilium_node_jitter_seconds",
        GAUGE,
        _PEER,
        "Mean difference of two consecutive round trips among them.",
        HEALTH,
    ),
    Metric(
        "wardmesh_health_cycle_seconds",
        GAUGE,
        (),
        "Time in which each peer is checked once; it grows with the fleet, the load does not.",
        HEALTH,
    ),
    # --- policy ---
    Metric("cilium_policy", GAUGE, (), "Policies that are loaded.", AGENT),
    Metric(
        "cilium_policy_max_revision",
        GAUGE,
        (),
        "Revision of the policy set in force. Each host counts its own; compare digests between hosts.",
        AGENT,
    ),
    Metric(
        "wardmesh_policy_info",
        GAUGE,
        ("digest",),
        "Always 1; the beginning of the SHA-256 of the policy files in force.",
        AGENT,
    ),
    Metric(
        "cilium_policy_endpoint_enforcement_status",
        GAUGE,
        ("enforcement",),
        "Endpoints by enforcement; a host is one.",
        AGENT,
    ),
    Metric(
        "cilium_policy_implementation_delay",
        HISTOGRAM,
        ("source",),
        "Seconds from a wish for another policy set to its last map entry.",
        AGENT,
    ),
    # --- packets ---
    Metric(
        "cilium_drop_count_total",
        COUNTER,
        ("reason", "direction"),
        "Packets dropped by guard and firewall.",
        KERNEL,
    ),
    Metric(
        "cilium_drop_bytes_total",
        COUNTER,
        ("reason", "direction"),
        "Bytes dropped by guard and firewall.",
        KERNEL,
    ),
    Metric(
        "cilium_forward_count_total",
        COUNTER,
        ("direction",),
        "Packets to or from members, and routed ones, that the guard let pass.",
        KERNEL,
    ),
    Metric(
        "cilium_forward_bytes_total",
        COUNTER,
        ("direction",),
        "Bytes to or from members, and routed ones, that the guard let pass.",
        KERNEL,
    ),
    Metric(
        "wardmesh_guard_packets_total",
        COUNTER,
        ("reason", "direction"),
        "Packets that the guard let pass, by reason: Tunnel, Plaintext, Exempt, Forwarded.",
        KERNEL,
    ),
    Metric(
        "wardmesh_firewall_packets_total",
        COUNTER,
        ("reason", "direction"),
        "First packets of flows that the firewall let pass: Allowed, Audited, Failsafe, Forwarded.",
        KERNEL,
    ),
    # --- maps ---
    Metric(
        "cilium_bpf_map_pressure",
        GAUGE,
        ("map_name",),
        "Entries of a map as a share of those that fit; tables of flows: of those that it is made for.",
        KERNEL,
    ),
    Metric("cilium_bpf_map_capacity", GAUGE, ("map_name",), "Entries that fit into a map.", KERNEL),
    Metric("wardmesh_conntrack_entries", GAUGE, ("family",), "Connections that are known.", KERNEL),
    Metric(
        "wardmesh_conntrack_capacity", GAUGE, ("family",), "Connections for which the table is made.", KERNEL
    ),
    # --- flows ---
    Metric(
        "hubble_flows_processed_total",
        COUNTER,
        ("type", "subtype", "verdict"),
        "Flow events that were read.",
        FLOWS,
    ),
    Metric("hubble_drop_total", COUNTER, ("reason", "protocol"), "Flow events of dropped packets.", FLOWS),
    Metric(
        "hubble_lost_events_total",
        COUNTER,
        ("source",),
        "Flow events that were lost, by place.",
        FLOWS,
    ),
    Metric("hubble_tcp_flags_total", COUNTER, ("flag", "family"), "TCP flags in flow events.", FLOWS),
    Metric("hubble_icmp_total", COUNTER, ("family", "type"), "Flow events of ICMP by type.", FLOWS),
    Metric(
        "hubble_port_distribution_total",
        COUNTER,
        ("port", "protocol"),
        "New flows by destination port: the first busy ones by number, all else as other.",
        FLOWS,
    ),
    # --- the scrape ---
    Metric(
        "wardmesh_scrape_errors",
        GAUGE,
        ("source",),
        "1 where a source could not be read for this scrape.",
        "the collector",
    ),
    Metric("wardmesh_scrape_duration_seconds", GAUGE, (), "Seconds that the reading took.", "the collector"),
)

BY_NAME = {metric.name: metric for metric in METRICS}

# Names of upstream that have no meaning on hosts, and why; for the reference page.
LEFT_OUT: tuple[tuple[str, str], ...] = (
    ("cilium_ipsec_*", "there is no IPsec"),
    ("cilium_proxy_*, cilium_policy_l7_total", "there is no proxy: policy ends at layer 4"),
    ("cilium_fqdn_*", "names are not tracked"),
    (
        "cilium_kvstore_*",
        "a process of its own follows the store; wardmesh_store_connected says whether it answers",
    ),
    (
        "cilium_clustermesh_remote_cluster_failures, cilium_clustermesh_global_services",
        "`wardmesh clustermesh status` says what is wrong; there are no services",
    ),
    ("cilium_identity_gc_*, cilium_ipcache_*", "identities follow from the fleet map; nothing is collected"),
    (
        "cilium_endpoint_regenerations_total, cilium_endpoint_regeneration_time_stats_seconds",
        "the host is the only endpoint; cilium_policy_implementation_delay says how long a change takes",
    ),
    (
        "cilium_datapath_conntrack_gc_*",
        "a connection's place is taken when its time is over; nobody collects",
    ),
    ("cilium_bpf_map_ops_total", "maps change only with a policy or a fleet map"),
    (
        "cilium_controllers_*, cilium_event_ts, cilium_api_process_time_seconds",
        "the agent has one loop; wardmesh_problems says what is wrong with it",
    ),
    ("cilium_unreachable_health_endpoints", "a host is the only endpoint, and it is a node"),
    (
        "hubble_dns_*, hubble_http_*, hubble_flows_to_world_total",
        "what is above layer 4 is not parsed",
    ),
)
