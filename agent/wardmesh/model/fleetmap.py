# SPDX-License-Identifier: Apache-2.0
"""The fleet map: the one document that every member gets, the same bytes for all.

Canonical form: JSON with sorted keys, no spaces, UTF-8, one newline at the end. `digest` is the
SHA-256 of the same document without that key, so a map cut short or altered in transit is refused.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Union

from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
FORMAT = 1
DEFAULT_PORT = 51871
# RFC 6335 §5.1: at most 15 characters, letters, digits and single hyphens, one letter at least.
PORT_NAME = re.compile(r"^(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*$")


@dataclass(frozen=True)
class Endpoint:
    """Where a peer's WireGuard listens; host is an IP literal without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def second_port(port: int) -> int:
    """The port of the second tunnel while keys rotate: the next one, or the one before the last one."""
    return port + 1 if port < 65535 else port - 1


@dataclass(frozen=True)
class Member:
    """One host of the fleet; the first address is the primary one; keepalive in seconds, 0 is off.

    next_key: the key that is to replace key, "" while it does not rotate; next_endpoint: where the second
    tunnel listens while keys rotate, None for the host of endpoint and the port beside.
    ports: numbers of the ports that policies may call by name on this host.
    cluster: another one than the map's; the name is CLUSTER/NAME then. kubernetes: a node of Kubernetes, with
    no labels that policy asks for; pods: where its pods have addresses.
    """

    name: str
    key: str
    addresses: tuple[Address, ...]
    endpoint: Endpoint
    keepalive: int = 0
    allowed_ips: tuple[Network, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    next_key: str = ""
    next_endpoint: Endpoint | None = None
    cluster: Cluster | None = None
    kubernetes: bool = False
    pods: tuple[Network, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def second_key(self) -> str:
        """The key of this member's second tunnel."""
        return self.next_key or self.key

    @property
    def second_endpoint(self) -> Endpoint:
        """Where this member's second tunnel is reached."""
        return self.next_endpoint or Endpoint(self.endpoint.host, second_port(self.endpoint.port))

    def networks(self) -> tuple[Network, ...]:
        """What belongs to this member: its addresses as host networks, and the subnets behind it."""
        return tuple(map(host_network, self.addresses)) + self.allowed_ips + self.pods


@lru_cache(maxsize=1 << 16)
def host_network(address: Address) -> Network:
    """An address as a network of its own. Kept, for every change of a fleet asks for all of them again."""
    return ipaddress.ip_network(address)


@dataclass(frozen=True)
class Workload:
    """A pod of another cluster. identity: as that cluster numbers it; node: name of the member below it."""

    address: Address
    identity: int
    labels: frozenset[str]
    cluster: str
    node: str
    name: str = ""

    @property
    def group(self) -> str:
        """The name of all that share its identity, among the members' names."""
        return f"{self.cluster}/identity/{self.identity}"


@dataclass(frozen=True)
class FleetMap:
    """A checked map; members are sorted by name.

    departed: members that a store knew and whose lease is gone. No document has them; they are no peers, but
    where they were sealed, plain packets to their addresses stay forbidden. Members of other clusters are
    among the members; workloads: the pods of those.
    """

    generation: int
    cluster: Cluster
    members: tuple[Member, ...]
    digest: str
    departed: tuple[Member, ...] = ()
    workloads: tuple[Workload, ...] = ()

    @property
    def home(self) -> tuple[Member, ...]:
        """The members of the own cluster."""
        return tuple(member for member in self.members if member.cluster is None)

    def by_key(self, key: str) -> Member | None:
        """The member with this public key."""
        return next((member for member in self.members if member.key == key), None)

    def by_name(self, name: str) -> Member | None:
        """The member of this name."""
        return next((member for member in self.members if member.name == name), None)


@dataclass(frozen=True)
class MapDiff:
    """Names of members by what became of them."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def canonical(document: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a document, without the final newline."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(document: Mapping[str, Any]) -> str:
    """sha256:<hex> over the canonical bytes of the document without its digest key."""
    body = {key: value for key, value in document.items() if key != "digest"}
    return "sha256:" + hashlib.sha256(canonical(body)).hexdigest()


def check_succession(current: FleetMap | None, new: FleetMap, source: str) -> None:
    """Refuses a map that is older than the applied one, or another one of the same generation."""
    if current is None or new.digest == current.digest:
        return
    if new.generation <= current.generation:
        raise WardmeshError(
            "fleet map is not newer than the applied one",
            where=f"{source}: generation",
            why=f"it has generation {new.generation}, applied is {current.generation}",
            remedy="update the registry (git pull) and run the playbook again",
        )


def diff_maps(old: FleetMap | None, new: FleetMap) -> MapDiff:
    """What a new map changes, by member name."""
    before = {member.name: member for member in old.members} if old else {}
    after = {member.name: member for member in new.members}
    return MapDiff(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(name for name in after.keys() & before.keys() if after[name] != before[name])),
    )
