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


def publisher_key(cluster: str) -> str:
    """Which host publishes for the cluster; a key of our own."""
    return f"wardmesh/v1/{cluster}/publisher"


def prefix_end(prefix: str) -> bytes:
    """The first key behind all keys that begin with prefix: what a range over a prefix ends at."""
    raw = prefix.encode().rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"
