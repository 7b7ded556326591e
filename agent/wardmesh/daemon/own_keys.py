# SPDX-License-Identifier: Apache-2.0
"""Which member of a map this host is, by its public keys: the one in use, the staged one, former ones."""

from __future__ import annotations

import json
from dataclasses import replace

from wardmesh.discovery.settings import configured
from wardmesh.host.files import read_bytes
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member
from wardmesh.wireguard.keys import is_by_itself, load_private, noted_key, public_of


def changes_keys(config: Config) -> bool:
    """Does this host change its key by itself, and believe others who say that they did?"""
    return config.encryption.key_rotation > 0 and configured(config.values)


def with_own_keys(paths: Paths, config: Config, fleet: FleetMap, own: Member) -> tuple[FleetMap, Member]:
    """The map with the keys that this host has; they are another matter than the map's only where it changes
    them by itself, and the map has not learned of it."""
    if not changes_keys(config):
        return fleet, own
    current, *staged = own_public_keys(paths)
    following = staged[0] if staged and is_by_itself(paths) else ""
    if own.key == current:
        now = replace(own, next_key=own.next_key or following)
    elif own.key in staged:
        now = own  # the map ends a rotation, and the key changes with it
    else:
        now = replace(own, key=current, next_key=following)
    if now == own:
        return fleet, own
    members = tuple(now if member.name == own.name else member for member in fleet.members)
    return replace(fleet, members=members), now


def own_public_keys(paths: Paths) -> tuple[str, ...]:
    """This host's public keys, the one in use first: from the facts beside the private ones, so that a
    private key with wrong permissions does not keep the guard from being set up."""
    found = [noted_key(path.with_suffix(".json")) for path in (paths.key, paths.next_key)]
    return tuple(key for key in (found[0] or public_of(load_private(paths)), found[1]) if key)


def noted_public_keys(paths: Paths) -> tuple[str, ...]:
    """The public keys as the agent published them, for services that cannot see the private ones' folder: the
    one in use, and the staged one. While a rotation ends either may be the map's."""
    try:
        data = read_bytes(paths.public_keys)
        found = json.loads(data) if data is not None else [noted_key(paths.key.with_suffix(".json"))]
    except (ValueError, WardmeshError):  # damaged, or an agent that never ran
        return ()
    return tuple(str(key) for key in found if key) if isinstance(found, list) else ()


def own_member(fleet: FleetMap, keys: tuple[str, ...]) -> Member | None:
    """The member of a map that has one of these keys, else the one that is to get one of them."""
    found = next((member for member in map(fleet.by_key, keys) if member is not None), None)
    return found or next((member for member in fleet.members if member.next_key in keys), None)
