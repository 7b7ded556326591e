# SPDX-License-Identifier: Apache-2.0
"""Cilium's values as typed records, both ways (reference: wire format of the key-value store).

Read as Cilium reads them: unknown fields are ignored, one wrong type rejects the record. Written in the form
that all supported readers understand: prefixes as {"IP", "Mask"}.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wardmesh.discovery.jsonvalues import LARGEST, mask_text, read_object, reject, write_object
from wardmesh.discovery.keys import ip_key
from wardmesh.model.fleetmap import Address, Network

WIREGUARD = 255  # EncryptionKey and Key: by WireGuard
INTERNAL, EXTERNAL, TUNNEL = "InternalIP", "ExternalIP", "CiliumInternalIP"
_MOST = 64  # addresses or prefixes of one record
_NAMES = ("Hostname", "InternalDNS", "ExternalDNS")


@dataclass(frozen=True)
class Node:
    """A member's record. addresses: (type, address); networks: of its pods; public_key: base64."""

    name: str
    cluster: str
    cluster_id: int
    addresses: tuple[tuple[str, Address], ...]
    public_key: str = ""
    networks: tuple[Network, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    encryption_key: int = WIREGUARD
    boot_id: str = ""

    def node_addresses(self) -> tuple[Address, ...]:
        """The host's own: internal ones before external ones, without that of its pods' router."""
        ranked = sorted(self.addresses, key=lambda item: (item[0] != INTERNAL, item[0] != EXTERNAL))
        return tuple(dict.fromkeys(address for kind, address in ranked if kind != TUNNEL))


def read_node(key: str, data: bytes) -> Node:
    """A node record; WardmeshError names the key and what is wrong."""
    fields = read_object(data, key)
    addresses: list[tuple[str, Address]] = []
    for item in fields.objects("IPAddresses")[:_MOST]:
        kind, address = item.text("Type"), item.address("IP")
        if address is not None and kind not in _NAMES:
            addresses.append((kind, address))
    networks = [fields.network(f"IPv{version}AllocCIDR") for version in (4, 6)]
    for version in (4, 6):
        networks += fields.network_list(f"IPv{version}SecondaryAllocCIDRs")[:_MOST]
    node = Node(
        name=fields.text("Name"),
        cluster=fields.text("Cluster"),
        cluster_id=fields.number("ClusterID", 32),
        addresses=tuple(addresses),
        public_key=fields.text("WireguardPubKey"),
        networks=tuple(network for network in networks if network is not None),
        labels=fields.texts("Labels"),
        annotations=fields.texts("Annotations"),
        encryption_key=fields.number("EncryptionKey", 8),
        boot_id=fields.text("BootID"),
    )
    if not node.name or not node.cluster:
        raise reject(key, "Name and Cluster must be there")
    if key.rsplit("/", 1)[-1] != node.name:
        raise reject(key, f"it is the record of {node.name[:80]!r}")
    return node


def write_node(node: Node) -> bytes:
    """The value of a node record."""
    by_version = {network.version: network for network in reversed(node.networks)}
    document: dict[str, Any] = {
        "Name": node.name,
        "Cluster": node.cluster,
        "IPAddresses": [{"Type": kind, "IP": str(address)} for kind, address in node.addresses],
        "IPv4AllocCIDR": _prefix(by_version.get(4)),
        "IPv4SecondaryAllocCIDRs": None,
        "IPv6AllocCIDR": _prefix(by_version.get(6)),
        "IPv6SecondaryAllocCIDRs": None,
        **{f"IPv{version}{what}IP": "" for what in ("Health", "Ingress") for version in (4, 6)},
        "ClusterID": node.cluster_id,
        "Source": "local",
        "EncryptionKey": node.encryption_key,
        "Labels": dict(sorted(node.labels.items())),
        "Annotations": dict(sorted(node.annotations.items())) or None,
        "WireguardPubKey": node.public_key,
        "BootID": node.boot_id,
    }
    return write_object(document)


def _prefix(network: Network | None) -> dict[str, str] | None:
    if network is None:
        return None
    return {"IP": str(network.network_address), "Mask": mask_text(network)}


@dataclass(frozen=True)
class IpPair:
    """An address or prefix with its identity. host: of the member that it lives on, None is unknown."""

    network: Network
    identity: int
    host: Address | None = None
    key: int = WIREGUARD
    bare: bool = True  # an address without a mask; a /32 with a mask is another key
    pod: str = ""  # namespace/name

    def store_key(self) -> str:
        """Where it lies."""
        return ip_key(str(self.network.network_address) if self.bare else str(self.network))


def read_ip(key: str, data: bytes) -> IpPair:
    """The identity of an address; WardmeshError where key and value differ."""
    fields = read_object(data, key)
    address, length = fields.address("IP"), fields.mask("Mask")
    if address is None:
        raise reject(key, "IP must be there")
    if length is not None and length > address.max_prefixlen:
        raise reject(key, "the mask does not fit to the address")
    network = ipaddress.ip_network(
        (address, address.max_prefixlen if length is None else length), strict=False
    )
    pair = IpPair(
        network,
        fields.number("ID", 32),
        fields.address("HostIP"),
        fields.number("Key", 8),
        bare=length is None,
        pod=_pod(fields.text("K8sNamespace"), fields.text("K8sPodName")),
    )
    if _remainder(pair.store_key()) != _remainder(key):
        raise reject(key, f"it is the record of {network}")
    return pair


def _pod(namespace: str, name: str) -> str:
    return f"{namespace[:63]}/{name[:253]}" if name else ""


def _remainder(key: str) -> str:
    """What follows the address space (state layout) or the cluster (cached layout)."""
    return key.rsplit("/ip/v1/", 1)[-1].split("/", 1)[-1]


def write_ip(pair: IpPair) -> bytes:
    """The value of a pair."""
    document = {
        "IP": str(pair.network.network_address),
        "Mask": None if pair.bare else mask_text(pair.network),
        "HostIP": str(pair.host) if pair.host else "",
        "ID": pair.identity,
        "Key": pair.key,
        "Metadata": "",
    }
    return write_object(document)


def read_identity(key: str, data: bytes) -> frozenset[str]:
    """Labels as source:key=value; a label without a source gets unspec."""
    if len(data) > LARGEST:
        raise reject(key, f"{len(data)} bytes, at most {LARGEST}")
    try:
        words = [word for word in data.decode().split(";") if word]
    except UnicodeDecodeError as error:
        raise reject(key, "not UTF-8") from error
    if not words:
        raise reject(key, "no labels")
    return frozenset(_label(word) for word in words)


def _label(word: str) -> str:
    name, _equals, value = word.partition("=")
    source, colon, rest = name.partition(":")
    return f"{source}:{rest}={value}" if colon else f"unspec:{name}={value}"


def write_identity(labels: frozenset[str]) -> bytes:
    """The label string: sorted by key alone, as every writer must, and closed by a semicolon."""
    if any(";" in label for label in labels):
        raise reject("identity", "a label holds a semicolon")
    return "".join(f"{label};" for label in sorted(labels, key=_by_key)).encode()


def _by_key(label: str) -> str:
    return label.partition("=")[0].partition(":")[2]


@dataclass(frozen=True)
class ClusterConfig:
    """What another cluster reads first. canaries: readers wait for them; cached: the other layout."""

    id: int
    canaries: bool = False
    cached: bool = False
    most: int = 255


def read_cluster(key: str, data: bytes) -> ClusterConfig:
    """A cluster's configuration; WardmeshError where its number is none."""
    fields = read_object(data, key)
    number = fields.number("id", 32)
    held = fields.inner("capabilities")
    most = held.number("maxConnectedClusters", 32) or 255
    if not 1 <= number <= min(most, 511):
        raise reject(key, f"no cluster has the number {number}")
    return ClusterConfig(number, held.flag("syncedCanaries"), held.flag("cached"), most)


def write_cluster(config: ClusterConfig) -> bytes:
    """The value of a cluster's configuration."""
    capabilities: dict[str, Any] = {"syncedCanaries": config.canaries, "maxConnectedClusters": config.most}
    if config.cached:
        capabilities["cached"] = True
    return write_object({"id": config.id, "capabilities": capabilities})
