# SPDX-License-Identifier: Apache-2.0
"""Where things lie in a store: Cilium's own layout (reference: layout of the key-value store)."""

from __future__ import annotations

BASE = "cilium/state"
HEARTBEAT = "cilium/.heartbeat"


def nodes_prefix(cluster: str) -> str:
    """The records of a cluster's members."""
    return f"{BASE}/nodes/v1/{cluster}/"


def node_key(cluster: str, name: str) -> str:
    """One member's record."""
    return nodes_prefix(cluster) + name


def identity_key(number: int) -> str:
    """A label set by its number."""
    return f"{BASE}/identities/v1/id/{number}"


def ip_key(text: str) -> str:
    """The identity of an address, or of a prefix written with its length."""
    return f"{BASE}/ip/v1/default/{text}"


def cluster_key(cluster: str) -> str:
    """The configuration that other clusters read first."""
    return f"cilium/cluster-config/{cluster}"


def prefix_end(prefix: str) -> bytes:
    """The first key behind all keys that begin with prefix: what a range over a prefix ends at."""
    raw = prefix.encode().rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"
