# SPDX-License-Identifier: Apache-2.0
"""Records of a Kubernetes cluster, in the form in which Cilium writes them."""

from __future__ import annotations

import base64
import json
from typing import Any

from wardmesh.discovery.backend import Entry
from wardmesh.model.config import Cluster

K8S = Cluster("k8s-a", 71)
CLUSTER_LABEL = "io.cilium.k8s.policy.cluster"
MASK24 = base64.b64encode(bytes([255, 255, 255, 0])).decode()


def node_key(number: int) -> str:
    """The node's public key."""
    return base64.b64encode((1000 + number).to_bytes(32, "big")).decode()


def _entry(key: str, value: bytes) -> Entry:
    return Entry(key, value, 1, 1)


def node(number: int, cluster: Cluster = K8S, **more: Any) -> Entry:
    """node1 has 192.0.2.1 and the pods of 10.42.1.0/24."""
    document = {
        "Name": f"node{number}",
        "Cluster": cluster.name,
        "IPAddresses": [
            {"Type": "InternalIP", "IP": f"192.0.2.{number}"},
            {"Type": "ExternalIP", "IP": f"203.0.113.{number}"},
            {"Type": "CiliumInternalIP", "IP": f"10.42.{number}.1"},
        ],
        "IPv4AllocCIDR": {"IP": f"10.42.{number}.0", "Mask": MASK24},
        "IPv4SecondaryAllocCIDRs": None,
        "IPv6AllocCIDR": None,
        "IPv6SecondaryAllocCIDRs": None,
        "IPv4HealthIP": f"10.42.{number}.2",
        "IPv6HealthIP": "",
        "ClusterID": cluster.id,
        "Source": "custom-resource",
        "EncryptionKey": 255,
        "Labels": {"kubernetes.io/os": "linux", "app": "frontend"},
        "Annotations": None,
        "NodeIdentity": 1,
        "WireguardPubKey": node_key(number),
        "BootID": "5f0a3c52-6a0e-4c0e-9d2b-0d7a51f3b2aa",
        **more,
    }
    return _entry(f"cilium/state/nodes/v1/{cluster.name}/node{number}", json.dumps(document).encode())


def labels_of(cluster: str = K8S.name, **labels: str) -> frozenset[str]:
    """The labels of an identity; a trailing underscore is cut off a name, two are a dot."""
    named = {name.rstrip("_").replace("__", "."): value for name, value in labels.items()}
    return frozenset(
        {f"k8s:{name}={value}" for name, value in named.items()} | {f"k8s:{CLUSTER_LABEL}={cluster}"}
    )


def identity(number: int, cluster: str = K8S.name, cluster_id: int = K8S.id, **labels: str) -> Entry:
    """Labels of a number within the cluster's range."""
    value = "".join(f"{label};" for label in sorted(labels_of(cluster, **labels)))
    return _entry(f"cilium/state/identities/v1/id/{(cluster_id << 16) + number}", value.encode())


def pod(
    address: str,
    number: int | None,
    host: int,
    name: str = "",
    mask: str | None = None,
    cluster_id: int = K8S.id,
) -> Entry:
    """The identity of an address; number None: of a host."""
    document: dict[str, Any] = {
        "IP": address,
        "Mask": mask,
        "HostIP": f"192.0.2.{host}",
        "ID": 1 if number is None else (cluster_id << 16) + number,
        "Key": 255,
        "Metadata": "",
    }
    if name:
        document["K8sNamespace"], _slash, document["K8sPodName"] = name.partition("/")
    length = "/24" if mask else ""
    return _entry(f"cilium/state/ip/v1/default/{address}{length}", json.dumps(document).encode())
