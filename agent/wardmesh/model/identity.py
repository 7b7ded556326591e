# SPDX-License-Identifier: Apache-2.0
"""Labels of hosts and the identity numbers of label sets (DESIGN §6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from wardmesh.model.fleetmap import FleetMap, Member

HOST, WORLD, REMOTE_NODE = 1, 2, 6
# Upstream's reserved identities (pkg/identity/numericidentity.go), those that a host meets.
RESERVED = {1: "host", 2: "world", 6: "remote-node", 9: "world-ipv4", 10: "world-ipv6"}
LOCAL_MIN, LOCAL_MAX = 256, 65535


def member_labels(member: Member, cluster: str) -> frozenset[str]:
    """User labels with source vm, and the implicit ones. cluster: the map's, of members that name no other.

    A node of Kubernetes has its cluster and its name only: a label of a node must not look like one of a pod.
    """
    cluster = member.cluster.name if member.cluster else cluster
    name = member.name.rpartition("/")[2]
    if member.kubernetes:
        return frozenset(
            {f"k8s:io.cilium.k8s.policy.cluster={cluster}", f"k8s:io.cilium.k8s.node-name={name}"}
        )
    own = {f"vm:{key}={value}" for key, value in member.labels.items()}
    implicit = {
        f"vm:cluster={cluster}",
        f"vm:node={name}",
        f"k8s:io.cilium.k8s.policy.cluster={cluster}",
        f"k8s:io.cilium.k8s.node-name={name}",
    }
    return frozenset(own | implicit)


def allocate(label_sets: Iterable[frozenset[str]], cluster_id: int) -> dict[frozenset[str], int]:
    """Numbers for label sets: the same input gives the same numbers on every host, never one twice.

    The hash of the sorted labels picks a slot in 256..65535; a taken slot moves on to the next,
    in the order of the hashes, so the result depends on the set of label sets alone.
    """
    size = LOCAL_MAX - LOCAL_MIN + 1
    ranked = sorted(
        (hashlib.sha256("\n".join(sorted(labels)).encode()).digest(), labels) for labels in set(label_sets)
    )
    taken: set[int] = set()
    numbers: dict[frozenset[str], int] = {}
    for digest, labels in ranked[:size]:
        slot = int.from_bytes(digest[:8], "big") % size
        while slot in taken:
            slot = (slot + 1) % size
        taken.add(slot)
        numbers[labels] = (cluster_id << 16) | (LOCAL_MIN + slot)
    return numbers


def identities(fleet: FleetMap) -> dict[str, int]:
    """Member name to identity number; numbers of different clusters differ in their upper bits.

    Nodes of Kubernetes are remote nodes, as upstream has it. Pods stand here by their groups.
    """
    found: dict[str, int] = {}
    clusters: dict[int, dict[str, frozenset[str]]] = {}
    for member in fleet.members:
        if member.kubernetes:
            found[member.name] = REMOTE_NODE
        else:
            number = (member.cluster or fleet.cluster).id
            clusters.setdefault(number, {})[member.name] = member_labels(member, fleet.cluster.name)
    for cluster_id, labels in clusters.items():
        numbers = allocate(labels.values(), cluster_id)
        found.update({name: numbers.get(held, REMOTE_NODE) for name, held in labels.items()})
    found.update({workload.group: workload.identity for workload in fleet.workloads})
    return found
