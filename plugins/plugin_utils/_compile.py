# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry and fleet map: pure, linear, no Ansible in it. Private to the collection.

The form of the map is the agent's (agent/wardmesh/model/fleetmap.py); both sides are held together
by tests over tests/vectors.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any

_PORT_NAME = re.compile(r"^(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*$")  # RFC 6335 §5.1


class FleetMapError(Exception):
    """The map cannot be made; the text says which member, why, and what to do."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """Sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def empty_registry() -> dict[str, Any]:
    """A registry without members."""
    return {"format": 1, "generation": 0, "content": "", "members": {}, "tombstones": []}


def parse_registry(data: bytes, source: str) -> dict[str, Any]:
    """Bytes of the registry file to its document."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise FleetMapError(f"{source}: not JSON ({error}); restore it from version control") from error
    if (
        not isinstance(document, dict)
        or document.get("format") != 1
        or not isinstance(document.get("members"), dict)
    ):
        raise FleetMapError(f"{source}: not a registry of format 1; restore it from version control")
    return document


def merge(
    registry: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], remove: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The next registry and warnings.

    declared: every host of the group with what its variables and its report say; a host that did not
    report in this run brings no key and keeps what the registry knows. Nobody leaves but by remove.
    """
    members = {name: dict(entry) for name, entry in registry["members"].items() if name not in remove}
    tombstones = sorted((set(registry.get("tombstones", [])) | set(remove)) - (set(declared) - set(remove)))
    warnings = []
    for name, facts in declared.items():
        if name in remove:
            continue
        entry = members.get(name, {})
        if facts.get("key"):
            _take_key(entry, facts)
        if facts.get("addresses"):
            entry["addresses"] = facts["addresses"]
        if facts.get("own_labels") is not None:  # the host reported; without a report it keeps what is known
            entry.pop("own_labels", None)
            if facts["own_labels"]:
                entry["own_labels"] = facts["own_labels"]
        for field in ("endpoint", "next_endpoint", "keepalive", "allowed_ips", "labels", "ports"):
            entry.pop(field, None)
            if facts.get(field):
                entry[field] = facts[field]
        if not entry.get("key"):
            warnings.append(f"{name} has no key yet and is left out of the map until it reports one")
            continue
        members[name] = entry
    warnings += [
        f"{name} left the inventory but stays a member; remove it with decommission.yml"
        for name in members
        if name not in declared
    ]
    return {**registry, "members": members, "tombstones": tombstones}, warnings


def _take_key(entry: dict[str, Any], facts: Mapping[str, Any]) -> None:
    """The key that a host reports.

    A host that holds the registry's key as its staged one has not got the newest map yet: the registry is
    ahead of it, and the old key must not come back. Any other key is a new one, and a rotation that was
    meant for the key before has lost its sense.
    """
    if facts["key"] != entry.get("key") and facts.get("next_key", "") == entry.get("key"):
        return
    if facts["key"] != entry.get("key"):
        entry.pop("next_key", None)
    entry["key"] = facts["key"]
    if facts.get("key_generation"):
        entry["key_generation"] = facts["key_generation"]


def keyless(
    registry: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], remove: list[str]
) -> list[str]:
    """Hosts that get a key in a real run, so that the map will change: no registry knows them, or they were
    looked at and have none, as one that was installed anew. In check mode nobody gives them one."""
    return [
        name
        for name, facts in declared.items()
        if name not in remove
        and (name not in registry["members"] or (facts.get("looked_at") and not facts.get("key")))
    ]


def guard_shrink(old: Mapping[str, Any], new: Mapping[str, Any], percent: int) -> None:
    """Refuse to remove more than percent of the members at once (one is always allowed)."""
    gone = sorted(set(old["members"]) - set(new["members"]))
    if len(gone) > max(1, len(old["members"]) * percent // 100):
        raise FleetMapError(
            f"this run would remove {len(gone)} of {len(old['members'])} members ({', '.join(gone[:5])} …), more "
            f"than {percent} %; set wardmesh_allow_shrink=true if that is meant"
        )


def wire_member(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A registry entry in the form of the map; default values are left out."""
    member: dict[str, Any] = {"name": name, "key": entry["key"], "addresses": entry.get("addresses") or []}
    for field, wire in (
        ("endpoint", "endpoint"),
        ("keepalive", "keepalive"),
        ("allowed_ips", "allowedIPs"),
        ("ports", "ports"),
        ("next_key", "nextKey"),
        ("next_endpoint", "nextEndpoint"),
    ):
        if entry.get(field):
            member[wire] = entry[field]
    labels = {**entry.get("own_labels", {}), **entry.get("labels", {})}
    if labels:
        member["labels"] = labels  # the inventory decides where both name a key
    return member


def check(members: list[dict[str, Any]]) -> None:
    """Pre-flight of the map: everything that is wrong with it, in one error."""
    problems: list[str] = []
    owners: dict[tuple[str, Any], str] = {}
    spans = []

    def claim(kind: str, value: Any, owner: str) -> None:
        other = owners.setdefault((kind, value), owner)
        if other != owner:
            problems.append(f"{owner}: {kind} {value} belongs to {other} already")

    for member in members:
        name = member["name"]
        for field, words in (("key", "its key"), ("nextKey", "its next key")):
            problems += _key_problems(f"{name}: {words}", member.get(field))
            if member.get(field):
                claim("key", member[field], name)
        if member.get("nextKey") == member["key"]:
            problems.append(f"{name}: its next key is the one that it has")
        if not member.get("addresses"):
            problems.append(f"{name}: no address; set wardmesh_addresses for it")
            continue
        problems += _port_problems(name, member.get("ports", {}))
        claim("endpoint", member.get("endpoint") or member["addresses"][0], name)
        for text in list(member["addresses"]) + list(member.get("allowedIPs", [])):
            try:
                network = ipaddress.ip_network(text)
            except ValueError as error:
                problems.append(f"{name}: {text}: {error}")
                continue
            if text in member["addresses"]:
                claim("address", text, name)
            spans.append(
                (network.version, int(network.network_address), -int(network.broadcast_address), text, name)
            )
    problems += _second_tunnel_problems(members)
    top: tuple[int, int, str, str] = (0, -1, "", "")
    for version, start, end, text, name in sorted(spans):
        if version == top[0] and start <= top[1]:
            if name != top[3] and text != top[2]:
                problems.append(f"{name}: allowed IPs {text} overlap {top[2]} of {top[3]}")
        else:
            top = (version, -end, text, name)
    if problems:
        raise FleetMapError("the fleet map was not made: " + "; ".join(problems))


def _key_problems(what: str, key: Any) -> list[str]:
    """What is wrong with a public key, where there is one."""
    if not key:
        return []
    try:
        return [] if len(base64.b64decode(key, validate=True)) == 32 else [f"{what} is not 32 bytes long"]
    except (binascii.Error, ValueError):
        return [f"{what} is not base64"]


def _port_problems(member: str, ports: Any) -> list[str]:
    """What is wrong with the named ports of a member, as the agent would refuse them."""
    if not isinstance(ports, Mapping):
        return [f"{member}: wardmesh_ports is no map of names to numbers"]
    problems = []
    for name, number in ports.items():
        if not isinstance(name, str) or not _PORT_NAME.match(name):
            problems.append(
                f"{member}: wardmesh_ports: {name!r} is no name of a port (at most 15 small letters, digits and "
                "single hyphens)"
            )
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 65536:
            problems.append(f"{member}: wardmesh_ports: {number!r} is no port, 1..65535")
    return problems


def _host_port(member: Mapping[str, Any]) -> tuple[str, int]:
    """Where a member's tunnel is reached; a form that the agent would refuse raises ValueError."""
    host, _colon, port = str(member.get("endpoint") or f"{member['addresses'][0]}:51871").rpartition(":")
    return str(ipaddress.ip_address(host.strip("[]"))), int(port)


def _second_tunnel_problems(members: list[dict[str, Any]]) -> list[str]:
    """While keys rotate every member listens on the port beside, too: behind one address none may be taken."""
    if not any(member.get("nextKey") for member in members):
        return []
    problems: list[str] = []
    taken: dict[tuple[str, int], str] = {}
    reached = [(member, _endpoint_of(member)) for member in members if member.get("addresses")]
    for member, place in reached:
        if place is not None:
            taken[place] = member["name"]
    for member, place in reached:
        if place is None or member.get("nextEndpoint"):
            continue
        beside = (place[0], place[1] + 1 if place[1] < 65535 else place[1] - 1)
        other = taken.setdefault(beside, member["name"])
        if other != member["name"]:
            problems.append(
                f"{member['name']}: while keys rotate it listens on {beside[0]} port {beside[1]}, which belongs to "
                f"{other}; set wardmesh_next_endpoint for it"
            )
    return problems


def _endpoint_of(member: Mapping[str, Any]) -> tuple[str, int] | None:
    try:
        return _host_port(member)
    except ValueError:
        return None


def compile_map(
    registry: Mapping[str, Any], cluster_name: str, cluster_id: int
) -> tuple[dict[str, Any], bytes]:
    """The registry with its new generation, and the bytes of the map. Same content, same generation."""
    members = [wire_member(name, registry["members"][name]) for name in sorted(registry["members"])]
    check(members)
    cluster = {"id": cluster_id, "name": cluster_name}
    content = hashlib.sha256(canonical({"cluster": cluster, "members": members})).hexdigest()
    generation = int(registry["generation"]) + (content != registry.get("content"))
    document: dict[str, Any] = {"format": 1, "generation": generation, "cluster": cluster, "members": members}
    document["digest"] = "sha256:" + hashlib.sha256(canonical(document)).hexdigest()
    return {**registry, "generation": generation, "content": content}, canonical(document) + b"\n"


def registry_bytes(registry: Mapping[str, Any]) -> bytes:
    """The registry as it is committed: sorted, a member's lines together, so that a diff reads well."""
    return json.dumps(registry, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"
