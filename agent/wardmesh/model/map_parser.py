# SPDX-License-Identifier: Apache-2.0
"""Bytes of a fleet map to a checked FleetMap; an operator sees every problem at once, with its path."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from typing import Any

from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import (
    DEFAULT_PORT,
    FORMAT,
    PORT_NAME,
    Address,
    Endpoint,
    FleetMap,
    Member,
    Network,
    Workload,
    digest_of,
)

_NAME = re.compile(r"^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,251}[a-zA-Z0-9])?$")
_KEYS = {
    "name",
    "key",
    "addresses",
    "endpoint",
    "keepalive",
    "allowedIPs",
    "labels",
    "ports",
    "nextKey",
    "nextEndpoint",
}
_FOREIGN_KEYS = {*_KEYS, "kubernetes", "pods"}


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

    def member(self, index: int, item: Any, cluster: Cluster | None = None) -> Member | None:
        path = f"members[{index}]" if cluster is None else f"clusters[{cluster.name}].members[{index}]"
        before = len(self.problems)
        if not isinstance(item, dict):
            self._fail(path, "expected a map")
            return None
        for name in sorted(set(item) - (_KEYS if cluster is None else _FOREIGN_KEYS)):
            self._fail(f"{path}.{name}", "unknown key")
        name = item.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            self._fail(f"{path}.name", "expected a host name")
            return None
        if cluster is not None:
            name = f"{cluster.name}/{name}"
        if ("name", name) in self._owners:
            self._fail(f"{path}.name", f"duplicate member {name}")
            return None
        self._owners[("name", name)] = name
        key = self._key(f"{path}.key", name, item.get("key"))
        next_key = self._key(f"{path}.nextKey", name, item["nextKey"]) if "nextKey" in item else ""
        if key and key == next_key:
            self._fail(f"{path}.nextKey", "is the same as key")
        addresses = self._addresses(path, name, item.get("addresses"))
        if len(self.problems) > before:
            return None
        endpoint = self._endpoint(f"{path}.endpoint", name, item.get("endpoint"), addresses)
        following = None
        if "nextEndpoint" in item:
            following = self._endpoint(f"{path}.nextEndpoint", name, item["nextEndpoint"], addresses)
        keepalive = item.get("keepalive", 0)
        if isinstance(keepalive, bool) or not isinstance(keepalive, int) or not 0 <= keepalive <= 65535:
            self._fail(f"{path}.keepalive", "expected seconds, 0..65535")
        nets = self._networks(f"{path}.allowedIPs", item.get("allowedIPs", []))
        pods = self._networks(f"{path}.pods", item.get("pods", []))
        labels = item.get("labels", {})
        if not isinstance(labels, dict) or any(not isinstance(value, str) for value in labels.values()):
            self._fail(f"{path}.labels", "expected a map of strings")
        ports = self._ports(f"{path}.ports", item.get("ports", {}))
        if len(self.problems) > before or endpoint is None:
            return None
        kubernetes = item.get("kubernetes", False) is True
        return Member(
            name,
            key,
            addresses,
            endpoint,
            keepalive,
            nets,
            dict(labels),
            next_key,
            following,
            cluster,
            kubernetes,
            pods,
            ports,
        )

    def _key(self, path: str, name: str, value: Any) -> str:
        try:
            raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 32:
            self._fail(path, f"a WireGuard public key is 32 bytes in base64, this is {len(raw)} bytes")
            return ""
        self._claim("key", value, name, path)
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
                self._fail(path, f"{value!r} is not ADDRESS:PORT")
                return None
            if not colon or not 0 < endpoint.port < 65536:
                self._fail(path, f"{value!r} is not ADDRESS:PORT")
                return None
        self._claim("endpoint", str(endpoint), name, path)
        return endpoint

    def _ports(self, path: str, value: Any) -> dict[str, int]:
        if not isinstance(value, dict):
            self._fail(path, "expected a map of names to numbers")
            return {}
        for name, number in value.items():
            if not PORT_NAME.match(name):
                self._fail(
                    f"{path}.{name}", "a port's name has at most 15 small letters, digits and single hyphens"
                )
            if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 65536:
                self._fail(f"{path}.{name}", f"{number!r} is no port, 1..65535")
        return dict(value)

    def _networks(self, path: str, value: Any) -> tuple[Network, ...]:
        found: list[Network] = []
        for place, text in enumerate(value if isinstance(value, list) else [None]):
            try:
                network = ipaddress.ip_network(text if isinstance(text, str) else "x")
            except ValueError as error:
                self._fail(f"{path}[{place}]", f"{text!r} is no network ({error})")
                continue
            if network.prefixlen == 0:
                self._fail(f"{path}[{place}]", "the whole address space cannot be behind one member")
            found.append(network)
        return tuple(found)

    def second_endpoints(self, members: list[Member]) -> None:
        """While keys rotate every member has a second tunnel, and no two of one place may share a port."""
        if not any(member.next_key for member in members):
            return
        for member in members:
            if member.next_endpoint is None:
                path = f"member {member.name}: endpoint of the second tunnel (give nextEndpoint)"
                self._claim("endpoint", str(member.second_endpoint), member.name, path)

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


def parse_member(item: Any, source: str, cluster: Cluster | None = None) -> Member:
    """One member by itself, in the map's form; WardmeshError names every problem."""
    checker = _Checker()
    member = checker.member(0, item, cluster)
    if member is None or checker.problems:
        words = [problem.partition("members[0]")[2].lstrip(".: ") or problem for problem in checker.problems]
        why = "; ".join(words[:10])
        raise WardmeshError("record skipped", where=source, why=why)
    return member


def parse_fleet_map(data: bytes, source: str) -> FleetMap:
    """Bytes to a checked FleetMap; WardmeshError names every problem with its path in the document."""
    again = "run the playbook again; the last good map stays in force"
    try:
        document = json.loads(data)
        digest = digest_of(document) if isinstance(document, dict) else ""  # fails at text without UTF-8
    except (ValueError, RecursionError) as error:
        raise WardmeshError(
            "fleet map is not JSON (cut short in transit?)", where=source, why=str(error), remedy=again
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise WardmeshError(
            "not a fleet map of format 1", where=source, remedy="upgrade the agent, or " + again
        )
    if document.get("digest") != digest:
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
    foreign, workloads = _other_clusters(checker, document.get("clusters", []), source, again)
    members += foreign
    checker.overlaps(members)
    checker.second_endpoints(members)
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
        workloads=workloads,
    )


def _other_clusters(
    checker: _Checker, items: Any, source: str, again: str
) -> tuple[list[Member], tuple[Workload, ...]]:
    """Members and pods of other clusters, which the agent itself has written into the map in force."""
    members: list[Member] = []
    workloads: list[Workload] = []
    try:
        for item in items:
            cluster = Cluster(str(item["name"]), int(item["id"]))
            found = [checker.member(place, entry, cluster) for place, entry in enumerate(item["members"])]
            members += [member for member in found if member is not None]
            labels = {int(number): frozenset(map(str, held)) for number, held in item["identities"].items()}
            workloads += [
                Workload(
                    ipaddress.ip_address(address),
                    number,
                    labels[number],
                    cluster.name,
                    f"{cluster.name}/{node}",
                    name,
                )
                for address, number, node, name in item["addresses"]
            ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise WardmeshError(
            "other clusters are not as they should be", where=f"{source}: clusters", why=why, remedy=again
        ) from error
    return members, tuple(workloads)
