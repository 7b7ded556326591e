# SPDX-License-Identifier: Apache-2.0
"""A member of the fleet as a node record, and back.

What Cilium's record has no field for stands in annotations of our own, which other readers ignore:
where WireGuard listens, how often it keeps a NAT open, subnets behind the host, the version of these words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardmesh.discovery.jsonvalues import reject
from wardmesh.discovery.records import INTERNAL, Node
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member, parse_member
from wardmesh.model.labels import parse_labels

FORMAT = "1"
_PREFIX = "wardmesh.io/"
_FORMAT, _ENDPOINT = f"{_PREFIX}format", f"{_PREFIX}endpoint"
_KEEPALIVE, _SUBNETS = f"{_PREFIX}keepalive", f"{_PREFIX}allowed-ips"
_MOST_SUBNETS, _MOST_LABELS = 16, 128


def member_document(member: Member) -> dict[str, Any]:
    """A member as the fleet map writes it."""
    document: dict[str, Any] = {
        "name": member.name,
        "key": member.key,
        "addresses": [str(address) for address in member.addresses],
        "endpoint": str(member.endpoint),
    }
    if member.keepalive:
        document["keepalive"] = member.keepalive
    if member.allowed_ips:
        document["allowedIPs"] = [str(network) for network in member.allowed_ips]
    if member.labels:
        document["labels"] = dict(sorted(member.labels.items()))
    return document


def node_of(member: Member, cluster: Cluster, labels: Mapping[str, str]) -> Node:
    """The record by which a member makes itself known. labels: the whole set, instead of the member's."""
    notes = {_FORMAT: FORMAT, _ENDPOINT: str(member.endpoint)}
    if member.keepalive:
        notes[_KEEPALIVE] = str(member.keepalive)
    if member.allowed_ips:
        notes[_SUBNETS] = ",".join(map(str, member.allowed_ips))
    return Node(
        name=member.name,
        cluster=cluster.name,
        cluster_id=cluster.id,
        addresses=tuple((INTERNAL, address) for address in member.addresses),
        public_key=member.key,
        labels=dict(labels),
        annotations=notes,
    )


def member_of(node: Node, cluster: Cluster, key: str) -> Member:
    """The member that a record makes known; WardmeshError with the store's key says why it is none."""
    if node.cluster != cluster.name or node.cluster_id != cluster.id:
        there, here = f"{node.cluster[:40]!r}, {node.cluster_id}", f"{cluster.name!r}, {cluster.id}"
        raise reject(key, f"cluster {there}; this one is {here}")
    version = node.annotations.get(_FORMAT, FORMAT)
    if version != FORMAT:
        raise reject(key, f"format {version[:20]!r} is newer than this agent")
    if not node.public_key:
        raise reject(key, "no WireGuard key")
    if len(node.labels) > _MOST_LABELS:
        raise reject(key, f"{len(node.labels)} labels, at most {_MOST_LABELS}")
    _check_labels(node.labels, key)
    item: dict[str, Any] = {
        "name": node.name,
        "key": node.public_key,
        "addresses": [str(address) for address in node.node_addresses()],
        "labels": dict(node.labels),
    }
    if _ENDPOINT in node.annotations:
        item["endpoint"] = node.annotations[_ENDPOINT]
    if _KEEPALIVE in node.annotations:
        text = node.annotations[_KEEPALIVE]
        item["keepalive"] = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text
    if node.annotations.get(_SUBNETS):
        item["allowedIPs"] = node.annotations[_SUBNETS].split(",")[:_MOST_SUBNETS]
    return parse_member(item, key)


def _check_labels(labels: Mapping[str, str], key: str) -> None:
    """Kubernetes' rules, and no word that the agent itself says of a host: nobody is another by a label."""
    try:
        parse_labels([f"{name}={value}" for name, value in labels.items()], key)
    except WardmeshError as error:
        raise reject(key, error.what) from error


def with_labels(member: Member, labels: Mapping[str, str]) -> Member:
    """The same member with other labels."""
    return Member(
        member.name,
        member.key,
        member.addresses,
        member.endpoint,
        member.keepalive,
        member.allowed_ips,
        dict(labels),
    )
