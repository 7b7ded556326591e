# SPDX-License-Identifier: Apache-2.0
"""The files that decide, read and checked whole; the last good ones are kept aside.

Last good means: valid, and applied without a new error. They lie in <state>/last-good/ and are what counts
when a file in /etc is broken, older, or gone.

A map in which this host is no member is refused like a broken one, because acting on it would open the
host: the last good state stays in force and the error names the remedy, which is to uninstall the agent
(wardmesh cleanup, uninstall.yml) or to put the host back into the fleet. Where the map has this host's name
under another key, the error says so: somebody installed the host anew, or made a second one of that name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from wardmesh.daemon.desired import Mesh, mesh_of
from wardmesh.discovery.document import read_discovered
from wardmesh.discovery.members import member_document
from wardmesh.discovery.merge import Refused, merge
from wardmesh.discovery.settings import read_settings, serves_here
from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import (
    FORMAT,
    FleetMap,
    Member,
    canonical,
    check_succession,
    digest_of,
    parse_fleet_map,
)
from wardmesh.policy.documents import PolicySet
from wardmesh.policy.files import parse_policies, policy_digest
from wardmesh.wireguard.keys import load_private, public_of

NO_POLICIES = PolicySet()


@dataclass(frozen=True)
class Inputs:
    """Configuration and map with the bytes that they came from; mesh None: there is nothing to build.

    fleet: the map in force, with the members that a store knows; rolled_out: the map as it was sent. Without
    a store they are the same. refused: records of the store that are not acted on.
    """

    config: Config
    fleet: FleetMap | None
    mesh: Mesh | None
    config_bytes: bytes
    fleet_bytes: bytes | None
    policies: PolicySet = NO_POLICIES
    policy_files: tuple[tuple[str, str], ...] = ()
    rolled_out: FleetMap | None = None
    discovered_bytes: bytes | None = None
    refused: tuple[Refused, ...] = ()

    def digests(self) -> dict[str, str]:
        """SHA-256 of the files in force."""
        return {
            "config": hashlib.sha256(self.config_bytes).hexdigest(),
            "fleet": hashlib.sha256(self.fleet_bytes or b"").hexdigest(),
            "policies": policy_digest(self.policy_files),
        }


def load_inputs(
    paths: Paths,
    config: Path,
    fleet: Path,
    policies: Path,
    own_name: str = "",
    discovered: bytes | None = None,
) -> Inputs:
    """Read and check all files; a missing configuration is the default one, a missing map is no map.

    own_name: the name that this host has in the map in force, "" where it has none. discovered: what was
    learned from a store; it counts only where one is configured.
    """
    config_bytes = read_bytes(config) or b""
    parsed = parse_config(_decode(config_bytes, config), str(config))
    read_settings(parsed.values)
    files = read_policies(policies)
    held = parse_policies(files, str(policies))
    fleet_bytes = read_bytes(fleet)
    if fleet_bytes is None:
        return Inputs(parsed, None, None, config_bytes, None, held, files)
    fleet_map = parse_fleet_map(fleet_bytes, str(fleet))
    mesh = check_map(paths, parsed, fleet_map, str(fleet), own_name)
    wanted = mesh if parsed.encryption.enabled else None
    made = Inputs(parsed, fleet_map, wanted, config_bytes, fleet_bytes, held, files, fleet_map)
    return _merged(made, discovered)


def _learned(path: Path, otherwise: bytes | None = None) -> bytes | None:
    """What was learned from a store. A damaged file must not keep a new map or the last good state away."""
    try:
        data = read_bytes(path)
        if data is not None:
            read_discovered(data, str(path))
            return data
    except WardmeshError:
        return otherwise
    return otherwise


def _merged(inputs: Inputs, data: bytes | None) -> Inputs:
    """The map that was rolled out together with what the store says."""
    settings = read_settings(inputs.config.values)
    fleet, own = inputs.rolled_out, inputs.mesh.own if inputs.mesh else None
    if settings is None or fleet is None or own is None or data is None:
        return inputs
    found = read_discovered(data, "discovered.json")
    if found.cluster != fleet.cluster:
        return inputs  # learned in another cluster
    serving = serves_here(settings, frozenset(map(str, own.addresses)))
    merged, refused = merge(fleet, found, allowed=settings.networks, keep_departed=serving)
    now = next(member for member in merged.members if member.name == own.name)
    return replace(inputs, fleet=merged, mesh=mesh_of(merged, now), discovered_bytes=data, refused=refused)


def with_discovered(paths: Paths, inputs: Inputs) -> Inputs:
    """The same inputs with what is known from the store now; the same object where that is nothing new."""
    data = read_bytes(paths.discovered)
    if data is None or data == inputs.discovered_bytes or inputs.rolled_out is None or inputs.mesh is None:
        return inputs
    own = inputs.rolled_out.by_key(inputs.mesh.own.key)
    if own is None:
        return inputs
    bare = replace(inputs, mesh=mesh_of(inputs.rolled_out, own))
    made = _merged(bare, data)
    return inputs if made is bare else made


def check_map(paths: Paths, config: Config, fleet: FleetMap, source: str, own_name: str = "") -> Mesh:
    """Does the map fit to this host and its configuration? The view of this host."""
    if fleet.cluster.name != config.cluster.name:
        raise WardmeshError(
            "map and configuration name different clusters",
            where=f"{source}: cluster.name",
            why=f"{fleet.cluster.name} against {config.cluster.name}",
            remedy=f"set cluster.name in {paths.config} to the fleet's, or send the right map",
        )
    return mesh_of(fleet, _own_member(fleet, own_public_key(paths), source, own_name))


def _own_member(fleet: FleetMap, key: str, source: str, own_name: str) -> Member:
    found = fleet.by_key(key)
    if found is not None:
        return found
    namesake = next((member for member in fleet.members if member.name == own_name), None)
    if namesake is not None:
        raise WardmeshError(
            f"the fleet map has this host's name {own_name} under another key",
            where=source,
            why=f"there it is {namesake.key[:10]}…, here {key[:10]}…",
            remedy="run the playbook for this host, so that the registry learns its key",
        )
    raise WardmeshError(
        "this host is not in the fleet map",
        where=source,
        why=f"no member of generation {fleet.generation} has its key {key[:10]}…",
        remedy="uninstall the agent if the host was removed on purpose (uninstall.yml, or wardmesh cleanup); "
        "else run the playbook for this host",
    )


def read_policies(source: Path) -> tuple[tuple[str, str], ...]:
    """Name and text of every policy file of a folder, or of a JSON file with copies of them."""
    if source.is_dir():
        found = []
        for path in sorted([*source.glob("*.yaml"), *source.glob("*.yml")]):
            data = read_bytes(path)
            if data is None:
                raise WardmeshError(
                    "the file vanished while the policies were read",
                    where=str(path),
                    remedy="reload again; the last good policies stay in force",
                )
            found.append((path.name, _decode(data, path)))
        return tuple(found)
    try:
        return tuple(sorted(json.loads(read_bytes(source) or b"{}").items()))
    except (ValueError, AttributeError) as error:
        raise WardmeshError("damaged copy of the policies", where=str(source), why=str(error)) from error


def own_public_key(paths: Paths) -> str:
    """This host's public key: from the facts beside the private one, so that a private key with wrong
    permissions does not keep the guard from being set up."""
    return noted_public_key(paths) or public_of(load_private(paths))


def noted_public_key(paths: Paths) -> str:
    """The public key as it is noted beside the private one, which stays closed; empty before there is one."""
    try:
        found = json.loads(read_bytes(paths.key.with_suffix(".json")) or b"{}").get("publicKey")
    except (ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _decode(data: bytes, source: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WardmeshError(
            "not UTF-8", where=str(source), why=str(error), remedy="save the file as UTF-8"
        ) from error


def has_last_good(paths: Paths) -> bool:
    """Did this host ever have a good state?"""
    return (paths.last_good / "config.yaml").exists()


def had_mesh(paths: Paths) -> bool:
    """Was this host ever part of a fleet that worked?"""
    return (paths.last_good / "fleet.json").exists()


def load_last_good(paths: Paths) -> Inputs:
    """The copies of what was in force."""
    good = paths.last_good
    return load_inputs(
        paths,
        good / "config.yaml",
        good / "fleet.json",
        good / "policies.json",
        discovered=_learned(good / paths.discovered.name),
    )


def load_or_last_good(paths: Paths) -> tuple[Inputs, WardmeshError | None]:
    """At start: what lies in /etc, else the last good copies and the error that led there.

    Where there are none, the error is raised.
    """
    last = _usable_last_good(paths)
    if last is None:
        return load_inputs(
            paths, paths.config, paths.fleet, paths.policies, discovered=_learned(paths.discovered)
        ), None
    try:
        return load_successor(paths, last), None
    except WardmeshError as error:
        return last, WardmeshError(
            f"{error.what}; the last good state stays in force",
            where=error.where,
            why=error.why,
            remedy=error.remedy,
        )


def _usable_last_good(paths: Paths) -> Inputs | None:
    """None on a new host, and where the copies no longer fit to this host (it has a new key)."""
    try:
        return load_last_good(paths) if has_last_good(paths) else None
    except WardmeshError:
        return None


def load_successor(paths: Paths, current: Inputs) -> Inputs:
    """What lies in /etc, if it may follow what is in force."""
    own_name = current.mesh.own.name if current.mesh else ""
    learned = _learned(paths.discovered, current.discovered_bytes)
    new = load_inputs(paths, paths.config, paths.fleet, paths.policies, own_name, learned)
    if new.rolled_out is not None:
        check_succession(current.rolled_out, new.rolled_out, str(paths.fleet))
    elif current.rolled_out is not None:
        raise WardmeshError(
            "the fleet map is gone",
            where=str(paths.fleet),
            why="this host had one before",
            remedy="run the playbook; to take the host out of the fleet, uninstall the agent",
        )
    return new


def remember(paths: Paths, inputs: Inputs) -> None:
    """Keep copies of what is in force now."""
    policies = json.dumps(dict(inputs.policy_files)).encode()
    kept = {"config.yaml": inputs.config_bytes, "fleet.json": inputs.fleet_bytes, "policies.json": policies}
    for name, data in kept.items():
        target = paths.last_good / name
        if data is not None and read_bytes(target) != data:
            write_atomic(target, data, 0o600)
    remember_discovered(paths, inputs)


def share_map(paths: Paths, inputs: Inputs) -> None:
    """Where the map in force is more than the one in /etc: write it for the observer and the command line."""
    fleet = inputs.fleet
    if fleet is None or fleet is inputs.rolled_out:
        paths.shared_fleet.unlink(missing_ok=True)
        return
    document = {
        "format": FORMAT,
        "generation": fleet.generation,
        "cluster": {"name": fleet.cluster.name, "id": fleet.cluster.id},
        "members": [member_document(member) for member in fleet.members],
    }
    write_atomic(paths.shared_fleet, canonical({**document, "digest": digest_of(document)}) + b"\n")


def remember_discovered(paths: Paths, inputs: Inputs) -> None:
    """Keep a copy of what the store said, for a start without it."""
    target = paths.last_good / paths.discovered.name
    if inputs.discovered_bytes is not None and read_bytes(target) != inputs.discovered_bytes:
        write_atomic(target, inputs.discovered_bytes, 0o600)
