# SPDX-License-Identifier: Apache-2.0
"""Where things lie in a store: Cilium's own layout (reference: layout of the key-value store)."""

from __future__ import annotations

BASE = "cilium/state"
HEARTBEAT = "cilium/.heartbeat"
IDENTITIES = f"{BASE}/identities/v1/id/"
ADDRESSES = f"{BASE}/ip/v1/default/"
# What another cluster waits for before it reads: one sign for each kind of record.
CANARIES = tuple(f"{BASE}/{kind}/v1" for kind in ("nodes", "services", "identities", "ip"))


def nodes_prefix(cluster: str) -> str:
    """The records of a cluster's members."""
    return f"{BASE}/nodes/v1/{cluster}/"


def node_key(cluster: str, name: str) -> str:
    """One member's record."""
    return nodes_prefix(cluster) + name


def identity_key(number: int) -> str:
    """A label set by its number."""
    return f"{IDENTITIES}{number}"


def ip_key(text: str) -> str:
    """The identity of an address, or of a prefix written with its length."""
    return ADDRESSES + text


def cluster_key(cluster: str) -> str:
    """The configuration that other clusters read first."""
    return f"cilium/cluster-config/{cluster}"


def synced_prefix(cluster: str) -> str:
    """The signs that a cluster's records are complete."""
    return f"cilium/synced/{cluster}/"


NODES, NUMBERS, PAIRS = "nodes", "identities", "ip"  # the kinds that are read of another cluster


def kind_prefixes(cluster: str, *, cached: bool) -> dict[str, str]:
    """Where each kind of another cluster's records lies. cached: in the layout for several clusters."""
    if not cached:
        return {NUMBERS: IDENTITIES, NODES: nodes_prefix(cluster), PAIRS: ADDRESSES}
    base = "cilium/cache"
    return {
        NUMBERS: f"{base}/identities/v1/{cluster}/id/",
        NODES: f"{base}/nodes/v1/{cluster}/",
        PAIRS: f"{base}/ip/v1/{cluster}/",
    }


def canary_keys(cluster: str, *, cached: bool) -> list[str]:
    """The signs that those records are complete."""
    base = "cilium/cache" if cached else BASE
    return [f"{synced_prefix(cluster)}{base}/{kind}/v1" for kind in (NUMBERS, NODES, PAIRS)]


def publisher_key(cluster: str) -> str:
    """Which host publishes for the cluster; a key of our own."""
    return f"wardmesh/v1/{cluster}/publisher"


def states_prefix(cluster: str) -> str:
    """What the members of a cluster show of themselves; keys of our own."""
    return f"wardmesh/v1/{cluster}/state/"


def state_key(cluster: str, name: str) -> str:
    """What one member shows of itself."""
    return states_prefix(cluster) + name


def prefix_end(prefix: str) -> bytes:
    """The first key behind all keys that begin with prefix: what a range over a prefix ends at."""
    raw = prefix.encode().rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"
