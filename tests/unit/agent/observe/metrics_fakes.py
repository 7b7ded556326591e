# SPDX-License-Identifier: Apache-2.0
"""Snapshots of any size, for the tests of metrics."""

from __future__ import annotations

from wardmesh.observe.metrics_snapshot import (
    AgentFigures,
    CheckedPeer,
    ClusterFigures,
    Counted,
    Delays,
    HealthFigures,
    MapFill,
    PeerFigures,
    Snapshot,
)

NOW = 1_000_000.0


def peer(number: int, tunnel: str = "up") -> PeerFigures:
    shaken = 0.0 if tunnel == "pending" else NOW - number % 100
    return PeerFigures(f"host-{number:05}", tunnel, tunnel == "up", shaken, 10**12 + number, 10**11 + number)


def agent(peers: tuple[PeerFigures, ...] = (), **other: object) -> AgentFigures:
    values: dict = {
        "version": "0.1.0",
        "since": 999_000.0,
        "cluster": "prod",
        "name": "web1",
        "generation": 7,
        "mode": "strict",
        "wish": "strict",
        "firewall": True,
        "audit": False,
        "policies": 3,
        "revision": 12,
        "policy_digest": "0123456789ab",
        "peers": peers,
        "problems": 0,
        "bootstrap": 1.5,
        "key_since": 900_000.0,
        "map_since": 950_000.0,
        "logged": {"error": 2, "warning": 5},
        "policy_delays": Delays(((0.1, 3), (1.0, 4)), 5, 2.5),
        "clusters": (ClusterFigures("site-b", 3, True), ClusterFigures("k8s", 2, False)),
        "store": True,
        **other,
    }
    return AgentFigures(**values)


def checked(count: int) -> HealthFigures:
    """One in a hundred does not answer, one in a hundred was not checked yet."""
    states = {0: "unreachable", 1: "unknown"}
    rows = []
    for number in range(count):
        state = states.get(number % 100, "reachable")
        known = None if state == "unknown" else 0.002
        lost = {"unreachable": 1.0, "reachable": 0.1}.get(state)
        rows.append(CheckedPeer(f"host-{number:05}", state, known, lost, known))
    return HealthFigures(50.0, tuple(rows), ((True, "icmp", Delays(((0.001, 3), (1.0, 4)), 5, 2.5)),))


def snapshot(peers: int = 2) -> Snapshot:
    """Every figure is there; one peer in a hundred is down, one in a hundred never shook hands."""
    states = {0: "down", 1: "pending"}
    return Snapshot(
        now=NOW,
        agent=agent(tuple(peer(number, states.get(number % 100, "up")) for number in range(peers))),
        enforced=("Enabled", "Disabled"),
        counted=(
            Counted("guard", "Tunnel", "ingress", 100, 15000, False),
            Counted("guard", "Plaintext", "ingress", 10, 900, False),
            Counted("guard", "Traffic is unencrypted", "egress", 3, 180, True),
            Counted("guard", "Invalid packet", "ingress", 1, 60, True),
            Counted("firewall", "Invalid packet", "ingress", 2, 120, True),
            Counted("firewall", "Policy denied", "ingress", 4, 240, True),
            Counted("firewall", "Allowed", "egress", 50, 3000, False),
        ),
        maps=(
            MapFill("guard/ipcache4", 500, 1000, False),
            MapFill("guard/metrics", 1024, 1024, True),
            MapFill("firewall/flows4", 900, 1000, False),
            MapFill("firewall/flows6", 0, 500, False),
        ),
        encrypt_cpu=12.25,
        identities={"reserved": 5, "cluster_local": 2},
        certificates={"hubble": NOW + 86400},
        health=checked(peers),
        failed=("firewall",),
        sources=("agent", "firewall"),
        seconds=0.01,
    )
