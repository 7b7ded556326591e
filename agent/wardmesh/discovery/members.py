# SPDX-License-Identifier: Apache-2.0
"""A member of the fleet as a node record, and back.

What Cilium's record has no field for stands in annotations of our own, which other readers ignore:
where WireGuard listens, how often it keeps a NAT open, subnets behind the host, the key that is to follow,
the version of these words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wardmesh.discovery.jsonvalues import reject
from wardmesh.discovery.records import EXTERNAL, INTERNAL, Node
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member
from wardmesh.model.labels import parse_labels
from wardmesh.model.map_parser import parse_member

FORMAT = "1"
_PREFIX = "wardmesh.io/"
_FORMAT, _ENDPOINT = f"{_PREFIX}format", f"{_PREFIX}endpoint"
_KEEPALIVE, _SUBNETS = f"{_PREFIX}keepalive", f"{_PREFIX}allowed-ips"
_FORMER = f"{_PREFIX}former-keys"
_NEXT_KEY, _NEXT_ENDPOINT = f"{_PREFIX}next-key", f"{_PREFIX}next-endpoint"
_MOST_SUBNETS, _MOST_LABELS, _MOST_FORMER = 16, 128, 26
_SHORT = 12  # characters of a former key: 72 bits tell one host's keys apart


def member_document(member: Member) -> dict[str, Any]:
    """A member as the fleet map writes it."""
    document: dict[str, Any] = {
        "name": member.name if member.cluster is None else member.name.rpartition("/")[2],
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
    if member.ports:
        document["ports"] = dict(sorted(member.ports.items()))
    if member.kubernetes:
        document["kubernetes"] = True
    if member.pods:
        document["pods"] = [str(network) for network in member.pods]
    if member.next_key:
        document["nextKey"] = member.next_key
    if member.next_endpoint is not None:
        document["nextEndpoint"] = str(member.next_endpoint)
    return document


def clusters_document(fleet: FleetMap) -> list[dict[str, Any]]:
    """Members and pods of other clusters, as the map in force has them."""
    found: dict[str, dict[str, Any]] = {}
    for member in fleet.members:
        if member.cluster is not None:
            cluster = {"name": member.cluster.name, "id": member.cluster.id}
            rows = found.setdefault(member.cluster.name, {**cluster, "members": [], **_nothing()})
            rows["members"].append(member_document(member))
    for item in fleet.workloads:
        rows = found[item.cluster]
        rows["identities"][str(item.identity)] = sorted(item.labels)
        rows["addresses"].append([str(item.address), item.identity, item.node.rpartition("/")[2], item.name])
    return [found[name] for name in sorted(found)]


def _nothing() -> dict[str, Any]:
    return {"identities": {}, "addresses": []}


def node_of(member: Member, cluster: Cluster, labels: Mapping[str, str], former: Sequence[str] = ()) -> Node:
    """The record by which a member makes itself known. labels: the whole set, instead of the member's;
    former: keys that it had before, the newest last."""
    notes = {_FORMAT: FORMAT, _ENDPOINT: str(member.endpoint)}
    if member.keepalive:
        notes[_KEEPALIVE] = str(member.keepalive)
    if member.allowed_ips:
        notes[_SUBNETS] = ",".join(map(str, member.allowed_ips))
    if former:
        notes[_FORMER] = ",".join(shortened(former[-_MOST_FORMER:]))
    if member.next_key:
        notes[_NEXT_KEY] = member.next_key
    if member.next_endpoint is not None:
        notes[_NEXT_ENDPOINT] = str(member.next_endpoint)
    return Node(
        name=member.name,
        cluster=cluster.name,
        cluster_id=cluster.id,
        addresses=tuple((INTERNAL, address) for address in member.addresses),
        public_key=member.key,
        labels=dict(labels),
        annotations=notes,
    )


def member_of(node: Node, cluster: Cluster, key: str, *, foreign: bool = False) -> Member:
    """The member that a record makes known; WardmeshError with the store's key says why it is none.

    foreign: of another cluster. Without our annotations it is a node of Kubernetes there.
    """
    if node.cluster != cluster.name or node.cluster_id != cluster.id:
        there, here = f"{node.cluster[:40]!r}, {node.cluster_id}", f"{cluster.name!r}, {cluster.id}"
        raise reject(key, f"cluster {there}; {'expected is' if foreign else 'this one is'} {here}")
    version = node.annotations.get(_FORMAT, FORMAT)
    if version != FORMAT:
        raise reject(key, f"format {version[:20]!r} is newer than this agent")
    if not node.public_key:
        raise reject(key, "no WireGuard key")
    if len(node.labels) > _MOST_LABELS:
        raise reject(key, f"{len(node.labels)} labels, at most {_MOST_LABELS}")
    if foreign and _FORMAT not in node.annotations:
        return parse_member(_kubernetes(node), key, cluster)
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
    for name, note in (("nextKey", _NEXT_KEY), ("nextEndpoint", _NEXT_ENDPOINT)):
        if note in node.annotations:
            item[name] = node.annotations[note]
    return parse_member(item, key, cluster if foreign else None)


def _kubernetes(node: Node) -> dict[str, Any]:
    """A node as a member: its internal addresses, else the external ones, and where its pods are."""
    kinds = {kind for kind, _address in node.addresses}
    chosen = INTERNAL if INTERNAL in kinds else EXTERNAL
    return {
        "name": node.name,
        "key": node.public_key,
        "addresses": list(dict.fromkeys(str(address) for kind, address in node.addresses if kind == chosen)),
        "kubernetes": True,
        "pods": list(map(str, node.networks[:_MOST_SUBNETS])),
    }


def former_of(node: Node) -> tuple[str, ...]:
    """Beginnings of the keys that a member says it had before (see shortened)."""
    text = node.annotations.get(_FORMER, "")
    return tuple(word for word in text.split(",")[:_MOST_FORMER] if len(word) == _SHORT)


def shortened(keys: Iterable[str]) -> tuple[str, ...]:
    """Keys as a record names former ones."""
    return tuple(key[:_SHORT] for key in keys)


def _check_labels(labels: Mapping[str, str], key: str) -> None:
    """Kubernetes' rules, and no word that the agent itself says of a host: nobody is another by a label."""
    try:
        parse_labels([f"{name}={value}" for name, value in labels.items()], key)
    except WardmeshError as error:
        raise reject(key, error.what) from error


def with_labels(member: Member, labels: Mapping[str, str]) -> Member:
    """The same member with other labels."""
    return replace(member, labels=dict(labels))
