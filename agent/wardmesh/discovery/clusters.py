# SPDX-License-Identifier: Apache-2.0
"""The other clusters of clustermesh.config, typed: where each one's members are learned from.

A list may be the same for the hosts of all clusters, as upstream's is: the entry of the own cluster is
passed over. Plain addresses among nodes are accepted, as operators of Cilium write them; without a key they
are nobody.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wardmesh.discovery.settings import Settings, read_settings
from wardmesh.model.config import Cluster, Config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Member, Network
from wardmesh.model.labels import parse_labels
from wardmesh.model.map_parser import parse_member

LIST = "clustermesh.config.clusters"
MOST_CLUSTERS = 255
_KEYS = {"name", "id", "address", "nodes", "networks", "tls", "username", "passwordFile"}
_STORE_ONLY = ("tls", "username", "passwordFile")
_TLS = {"ca", "cert", "key", "serverName"}
_SPELLINGS = {"publicKey": "key", "address": "addresses", "persistentKeepalive": "keepalive"}
_MEMBER_KEYS = ("name", "key", "addresses", "endpoint", "keepalive", "allowedIPs", "labels")
_NODE_KEYS = {*_MEMBER_KEYS, "nextKey", "nextEndpoint", *_SPELLINGS}
# Upstream's rule for a cluster's name (clustermesh configuration).
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")


@dataclass(frozen=True)
class Remote:
    """Another cluster. id 0: its store says it; store None: its members are static.

    networks: where its addresses may lie, empty is anywhere; keyless: nodes without a key.
    """

    name: str
    id: int
    store: Settings | None = None
    members: tuple[Member, ...] = ()
    networks: tuple[Network, ...] = ()
    keyless: tuple[str, ...] = ()


def given(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries that count; none where the mesh is switched off."""
    entries: list[Mapping[str, Any]] = values["clustermesh.config.clusters"]
    return [] if values["clustermesh.config.enabled"] is False else entries


def read_clusters(config: Config) -> tuple[Remote, ...]:
    """The other clusters; WardmeshError names every problem with its place in the list."""
    return read_remotes(config.values, config.cluster)


def read_remotes(values: Mapping[str, Any], own: Cluster) -> tuple[Remote, ...]:
    """The same from the values alone."""
    found: list[Remote] = []
    problems: list[str] = []
    entries = given(values)
    if len(entries) > MOST_CLUSTERS:
        problems.append(f"{LIST}: {len(entries)} clusters, at most {MOST_CLUSTERS}")
    for place, entry in enumerate(entries[:MOST_CLUSTERS]):
        where = f"{LIST}[{place}]"
        try:
            found.append(_remote(entry, where, values, own))
        except WardmeshError as error:
            problems.append(f"{error.where or where}: {error.why or error.what}")
    problems += _twice(found, own)
    if problems:
        raise WardmeshError(
            "invalid configuration",
            where=LIST,
            why="; ".join(problems[:50]),
            remedy="correct these entries; nothing was changed",
        )
    return tuple(remote for remote in found if remote.name != own.name)


def _twice(found: list[Remote], own: Cluster) -> list[str]:
    """Names and numbers that more than one cluster has."""
    problems = []
    names: set[str] = set()
    numbers = {own.id: own.name}
    for remote in found:
        if remote.name in names:
            problems.append(f"{LIST}: the name {remote.name} is there twice")
        names.add(remote.name)
        if remote.name == own.name and remote.id not in (0, own.id):
            problems.append(f"{LIST}: {own.name} is this host's cluster, with id {own.id}, not {remote.id}")
        elif remote.id and numbers.setdefault(remote.id, remote.name) != remote.name:
            problems.append(f"{LIST}: {remote.name} has id {remote.id}, as {numbers[remote.id]} has")
    return problems


def _wrong(where: str, why: str) -> WardmeshError:
    return WardmeshError("invalid configuration", where=where, why=why)


def _remote(entry: Mapping[str, Any], where: str, values: Mapping[str, Any], own: Cluster) -> Remote:
    for key in sorted(map(str, set(entry) - _KEYS)):
        raise _wrong(f"{where}.{key}", f"unknown key, expected one of {', '.join(sorted(_KEYS))}")
    name, number = entry.get("name"), entry.get("id", 0)
    if not isinstance(name, str) or not _NAME.match(name):
        raise _wrong(f"{where}.name", "expected up to 32 of a-z, 0-9 and '-'")
    if "id" in entry and (isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 255):
        raise _wrong(f"{where}.id", f"{number!r} is outside of 1..255")
    if bool(entry.get("address")) == ("nodes" in entry):
        raise _wrong(where, f"{name} needs either address or nodes, and not both")
    networks = _networks(entry.get("networks", []), f"{where}.networks")
    if name == own.name:
        return Remote(name, number)
    if entry.get("address"):
        return Remote(name, number, _store(entry, where, values), networks=networks)
    for key in _STORE_ONLY:
        if key in entry:
            raise _wrong(f"{where}.{key}", "goes with address only")
    members, keyless = _nodes(entry["nodes"], f"{where}.nodes", Cluster(name, number))
    if members and not number:
        raise _wrong(f"{where}.id", f"{name} needs an id: its members' identities are made of it")
    return Remote(name, number, None, members, networks, keyless)


def _networks(items: Any, where: str) -> tuple[Network, ...]:
    if not isinstance(items, list):
        raise _wrong(where, "expected a list of networks")
    try:
        return tuple(ipaddress.ip_network(str(item)) for item in items)
    except ValueError as error:
        raise _wrong(where, str(error)) from error


def _store(entry: Mapping[str, Any], where: str, values: Mapping[str, Any]) -> Settings:
    """As the own store's settings are read; HOST:PORT alone is HTTPS where tls is given."""
    tls = entry.get("tls") or {}
    if not isinstance(tls, dict) or set(tls) - _TLS:
        raise _wrong(f"{where}.tls", f"expected {', '.join(sorted(_TLS))}")
    addresses = entry["address"] if isinstance(entry["address"], list) else [entry["address"]]
    words = [*addresses, *tls.values(), *(entry.get(name, "") for name in ("username", "passwordFile"))]
    if any(not isinstance(word, str) for word in words):
        raise _wrong(where, "address, tls, username and passwordFile are texts")
    scheme = "https://" if tls else "http://"
    wanted = {
        **values,
        "etcd.endpoints": [text if "://" in text else scheme + text for text in addresses],
        **{f"etcd.tls.{name}": tls.get(name) for name in _TLS},
        "etcd.username": entry.get("username"),
        "etcd.passwordFile": entry.get("passwordFile"),
        "consul.address": None,
    }
    try:
        found = read_settings(wanted)
    except WardmeshError as error:
        place = error.where.replace("etcd.endpoints", "address").replace("etcd.", "")
        raise _wrong(f"{where}.{place}", error.why) from error
    if found is None:
        raise _wrong(f"{where}.address", "no server")
    return replace(found, networks=())


def _nodes(items: Any, where: str, cluster: Cluster) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    if not isinstance(items, list):
        raise _wrong(where, "expected a list of addresses, or of members")
    members, keyless = [], []
    for place, item in enumerate(items):
        path = f"{where}[{place}]"
        if isinstance(item, str):
            keyless.append(_plain(item, path))
        else:
            members.append(_member(item, path, cluster))
    for held in ({m.name for m in members}, {m.key for m in members}):
        if len(held) != len(members):
            raise _wrong(where, "two nodes have one name or key")
    return tuple(members), tuple(keyless)


def _plain(text: str, where: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise _wrong(where, str(error)) from error


def _member(item: Any, where: str, cluster: Cluster) -> Member:
    """A node in the fleet map's words, or in those of the inventory; a name is its first address else."""
    if not isinstance(item, dict):
        raise _wrong(where, "expected an address or a map")
    for key in sorted(map(str, set(item) - _NODE_KEYS)):
        raise _wrong(f"{where}.{key}", f"unknown key, expected one of {', '.join(sorted(_NODE_KEYS))}")
    both = [key for key, other in _SPELLINGS.items() if key in item and other in item]
    if both:
        raise _wrong(f"{where}.{both[0]}", f"is {_SPELLINGS[both[0]]} by another name; give one")
    found = {_SPELLINGS.get(key, key): value for key, value in item.items()}
    if isinstance(found.get("addresses"), str):
        found["addresses"] = [found["addresses"]]
    first = str((found.get("addresses") or [""])[0]) if isinstance(found.get("addresses"), list) else ""
    found.setdefault("name", first.replace(":", "-").strip("-"))
    try:
        member = parse_member(found, where, cluster)
        parse_labels([f"{name}={value}" for name, value in member.labels.items()], where)
    except WardmeshError as error:
        raise _wrong(where, error.why or error.what) from error
    return member
