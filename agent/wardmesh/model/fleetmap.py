# SPDX-License-Identifier: Apache-2.0
"""The fleet map: the one document that every member gets, the same bytes for all.

Canonical form: JSON with sorted keys, no spaces, UTF-8, one newline at the end. `digest` is the
SHA-256 of the same document without that key, so a map cut short or altered in transit is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
FORMAT = 1
DEFAULT_PORT = 51871
_NAME = re.compile(r"^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,251}[a-zA-Z0-9])?$")
_KEYS = {"name", "key", "addresses", "endpoint", "keepalive", "allowedIPs", "labels"}


@dataclass(frozen=True)
class Endpoint:
    """Where a peer's WireGuard listens; host is an IP literal without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Member:
    """One host of the fleet; the first address is the primary one; keepalive in seconds, 0 is off."""

    name: str
    key: str
    addresses: tuple[Address, ...]
    endpoint: Endpoint
    keepalive: int = 0
    allowed_ips: tuple[Network, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def networks(self) -> tuple[Network, ...]:
        """What belongs to this member: its addresses as host networks, and the subnets behind it."""
        hosts = tuple(ipaddress.ip_network(address) for address in self.addresses)
        return hosts + self.allowed_ips


@dataclass(frozen=True)
class FleetMap:
    """A checked map; members are sorted by name.

    departed: members that a store knew and whose lease is gone. No document has them; they are no peers, but
    where they were sealed, plain packets to their addresses stay forbidden.
    """

    generation: int
    cluster: Cluster
    members: tuple[Member, ...]
    digest: str
    departed: tuple[Member, ...] = ()

    def by_key(self, key: str) -> Member | None:
        """The member with this public key."""
        return next((member for member in self.members if member.key == key), None)


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


class _Checker:
    """Parses members and collects every problem, so an operator sees all of them at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._owners: dict[tuple[str, object], str] = {}

    def _claim(self, kind: str, value: object, owner: str, path: str) -> None:
        other = self._owners.setdefault((kind, value), owner)
        if other != owner:
            self.problems.append(f"{path}: {kind} {value} belongs to {other} already")

    def _fail(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def member(self, index: int, item: Any) -> Member | None:
        path = f"members[{index}]"
        before = len(self.problems)
        if not isinstance(item, dict):
            self._fail(path, "expected a map")
            return None
        for name in sorted(set(item) - _KEYS):
            self._fail(f"{path}.{name}", "unknown key")
        name = item.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            self._fail(f"{path}.name", "expected a host name")
            return None
        if ("name", name) in self._owners:
            self._fail(f"{path}.name", f"duplicate member {name}")
            return None
        self._owners[("name", name)] = name
        key = self._key(path, name, item.get("key"))
        addresses = self._addresses(path, name, item.get("addresses"))
        if len(self.problems) > before:
            return None
        endpoint = self._endpoint(path, name, item.get("endpoint"), addresses)
        keepalive = item.get("keepalive", 0)
        if isinstance(keepalive, bool) or not isinstance(keepalive, int) or not 0 <= keepalive <= 65535:
            self._fail(f"{path}.keepalive", "expected seconds, 0..65535")
        nets = self._networks(path, item.get("allowedIPs", []))
        labels = item.get("labels", {})
        if not isinstance(labels, dict) or any(not isinstance(value, str) for value in labels.values()):
            self._fail(f"{path}.labels", "expected a map of strings")
        if len(self.problems) > before or endpoint is None:
            return None
        return Member(name, key, addresses, endpoint, keepalive, nets, dict(labels))

    def _key(self, path: str, name: str, value: Any) -> str:
        try:
            raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 32:
            self._fail(
                f"{path}.key", f"a WireGuard public key is 32 bytes in base64, this is {len(raw)} bytes"
            )
            return ""
        self._claim("key", value, name, f"{path}.key")
        return str(value)

    def _addresses(self, path: str, name: str, value: Any) -> tuple[Address, ...]:
        if not isinstance(value, list) or not value:
            self._fail(f"{path}.addresses", f"member {name} has no address")
            return ()
        found: list[Address] = []
        for place, text in enumerate(value):
            try:
                address = ipaddress.ip_address(text if isinstance(text, str) else "")
            except ValueError:
                self._fail(f"{path}.addresses[{place}]", f"{text!r} is no IP address")
                continue
            if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
                self._fail(f"{path}.addresses[{place}]", f"{text} cannot be a member's address")
                continue
            self._claim("address", address, name, f"{path}.addresses[{place}]")
            found.append(address)
        return tuple(found)

    def _endpoint(self, path: str, name: str, value: Any, addresses: tuple[Address, ...]) -> Endpoint | None:
        if value is None:
            endpoint = Endpoint(str(addresses[0]), DEFAULT_PORT)
        else:
            host, colon, port = str(value).rpartition(":")
            try:
                endpoint = Endpoint(str(ipaddress.ip_address(host.strip("[]"))), int(port))
            except ValueError:
                self._fail(f"{path}.endpoint", f"{value!r} is not ADDRESS:PORT")
                return None
            if not colon or not 0 < endpoint.port < 65536:
                self._fail(f"{path}.endpoint", f"{value!r} is not ADDRESS:PORT")
                return None
        self._claim("endpoint", str(endpoint), name, f"{path}.endpoint")
        return endpoint

    def _networks(self, path: str, value: Any) -> tuple[Network, ...]:
        found: list[Network] = []
        for place, text in enumerate(value if isinstance(value, list) else [None]):
            try:
                network = ipaddress.ip_network(text if isinstance(text, str) else "x")
            except ValueError as error:
                self._fail(f"{path}.allowedIPs[{place}]", f"{text!r} is no network ({error})")
                continue
            if network.prefixlen == 0:
                self._fail(
                    f"{path}.allowedIPs[{place}]", "the whole address space cannot be behind one member"
                )
            found.append(network)
        return tuple(found)

    def overlaps(self, members: list[Member]) -> None:
        """Overlapping allowed IPs, in O(n log n): sorted by start, a network can only meet its forebears."""
        spans = sorted(
            (net.version, int(net.network_address), -int(net.broadcast_address), str(net), member.name)
            for member in members
            for net in member.networks()
        )
        top = (0, -1, "", "")
        for version, start, end, text, owner in spans:
            if version == top[0] and start <= top[1]:
                if owner != top[3]:
                    self._fail(f"member {owner}", f"allowed IPs {text} overlap {top[2]} of {top[3]}")
            else:
                top = (version, -end, text, owner)


def parse_member(item: Any, source: str) -> Member:
    """One member by itself, in the map's form; WardmeshError names every problem."""
    checker = _Checker()
    member = checker.member(0, item)
    if member is None or checker.problems:
        why = "; ".join(problem.partition(".")[2] or problem for problem in checker.problems[:10])
        raise WardmeshError("record skipped", where=source, why=why)
    return member


def parse_fleet_map(data: bytes, source: str) -> FleetMap:
    """Bytes to a checked FleetMap; WardmeshError names every problem with its path in the document."""
    again = "run the playbook again; the last good map stays in force"
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WardmeshError(
            "fleet map is not JSON (cut short in transit?)", where=source, why=str(error), remedy=again
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise WardmeshError(
            "not a fleet map of format 1", where=source, remedy="upgrade the agent, or " + again
        )
    if document.get("digest") != digest_of(document):
        raise WardmeshError(
            "digest does not match the content",
            where=f"{source}: digest",
            why="the map was altered or cut short in transit",
            remedy=again,
        )
    generation, cluster = document.get("generation"), document.get("cluster")
    if isinstance(generation, bool) or not isinstance(generation, int) or generation < 1:
        raise WardmeshError("expected a positive integer", where=f"{source}: generation", remedy=again)
    if (
        not isinstance(cluster, dict)
        or not isinstance(cluster.get("name"), str)
        or not isinstance(cluster.get("id"), int)
        or not 1 <= cluster["id"] <= 255
    ):
        raise WardmeshError("expected name and id (1..255)", where=f"{source}: cluster", remedy=again)
    items = document.get("members")
    if not isinstance(items, list):
        raise WardmeshError("expected a list", where=f"{source}: members", remedy=again)
    checker = _Checker()
    members = [member for member in map(checker.member, range(len(items)), items) if member]
    checker.overlaps(members)
    if checker.problems:
        raise WardmeshError(
            "invalid fleet map",
            where=source,
            why="; ".join(checker.problems[:50]),
            remedy="correct the inventory or the registry and run the playbook again",
        )
    return FleetMap(
        generation,
        Cluster(cluster["name"], cluster["id"]),
        tuple(sorted(members, key=lambda member: member.name)),
        document["digest"],
    )


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
