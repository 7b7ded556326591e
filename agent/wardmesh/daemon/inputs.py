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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wardmesh.daemon.desired import Mesh, mesh_of
from wardmesh.daemon.log import LOG
from wardmesh.daemon.own_keys import changes_keys, own_member, own_public_keys, with_own_keys
from wardmesh.discovery.clusters import Remote, read_clusters
from wardmesh.discovery.document import read_discovered
from wardmesh.discovery.join import Joined, join
from wardmesh.discovery.learned import Learned, read_learned
from wardmesh.discovery.merge import Refused, merge
from wardmesh.discovery.settings import read_settings, serves_here
from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member, check_succession
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.policy.documents import PolicySet
from wardmesh.policy.files import parse_policies, policy_digest
from wardmesh.wireguard.keys import former_keys

NO_POLICIES = PolicySet()
Held = tuple[bytes, Learned]  # a file's content, and what it says
Known = Mapping[str, Held]


@dataclass(frozen=True)
class Inputs:
    """Configuration and map with the bytes that they came from; mesh None: there is nothing to build.

    fleet: the map in force, with the members that a store knows; rolled_out: the map as it was sent. Without
    a store they are the same. refused: records of the store that are not acted on. remotes: the other
    clusters; learned: what their stores said, by name; joined: what became of it.
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
    remotes: tuple[Remote, ...] = ()
    learned: Known = field(default_factory=dict)
    joined: tuple[Joined, ...] = ()

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
    known: Known | None = None,
) -> Inputs:
    """Read and check all files; a missing configuration is the default one, a missing map is no map.

    own_name: the name that this host has in the map in force, "" where it has none. discovered: what was
    learned from a store; it counts only where one is configured. known: what was known of other clusters.
    """
    config_bytes = read_bytes(config) or b""
    parsed = parse_config(_decode(config_bytes, config), str(config))
    read_settings(parsed.values)
    remotes = read_clusters(parsed)
    files = read_policies(policies)
    held = parse_policies(files, str(policies))
    fleet_bytes = read_bytes(fleet)
    if fleet_bytes is None:
        return Inputs(parsed, None, None, config_bytes, None, held, files, remotes=remotes)
    rolled_out = parse_fleet_map(fleet_bytes, str(fleet))
    fleet_map, own = check_map(paths, parsed, rolled_out, str(fleet), own_name)
    bare = Inputs(
        parsed, fleet_map, None, config_bytes, fleet_bytes, held, files, rolled_out, remotes=remotes
    )
    if not parsed.encryption.enabled:
        return bare
    return _with_stores(bare, own, discovered, _learned_of_clusters(paths, remotes, known or {}))


def _learned(path: Path, otherwise: bytes | None = None) -> bytes | None:
    """What was learned from a store. A damaged file must not keep a new map or the last good state away."""
    try:
        data = read_bytes(path)
        if data is not None:
            if data != otherwise:
                read_discovered(data, str(path))
            return data
    except WardmeshError:
        return otherwise
    return otherwise


def _with_stores(bare: Inputs, own: Member, data: bytes | None, learned: Known) -> Inputs:
    """The own map together with what its store says (data) and with the other clusters, and this host's view.

    bare: its map is the one that was rolled out, with the keys that this host has."""
    fleet = bare.fleet
    if fleet is None:
        return bare
    made, merged = bare, _merged(bare, fleet, own, data)
    if merged is not None:
        fleet, refused = merged
        own = fleet.by_name(own.name) or own
        made = replace(made, discovered_bytes=data, refused=refused)
    if bare.remotes:
        said = {name: held[1] for name, held in learned.items()}
        fleet, rows = join(fleet, bare.remotes, said, bare.config.members_max // 2)
        made = replace(made, learned=learned, joined=rows)
    by_themselves = _by_themselves(fleet, bare.rolled_out or fleet)
    return replace(made, fleet=fleet, mesh=mesh_of(fleet, own, by_themselves))


def _merged(
    inputs: Inputs, fleet: FleetMap, own: Member, data: bytes | None
) -> tuple[FleetMap, tuple[Refused, ...]] | None:
    """The map with the members that the store knows; None where there is no store, or nothing from it."""
    settings = read_settings(inputs.config.values)
    if settings is None or data is None:
        return None
    found = read_discovered(data, "discovered.json")
    if found.cluster != fleet.cluster:
        return None  # learned in another cluster
    return merge(
        fleet,
        found,
        allowed=settings.networks,
        keep_departed=serves_here(settings, frozenset(map(str, own.addresses))),
        own=own.name,
        by_themselves=changes_keys(inputs.config),
    )


def _by_themselves(fleet: FleetMap, rolled_out: FleetMap) -> frozenset[str]:
    """Members whose next key is in the map in force and not in the one that was rolled out."""
    declared = {member.next_key for member in rolled_out.members}
    return frozenset(m.name for m in fleet.members if m.next_key and m.next_key not in declared)


def _learned_of_clusters(paths: Paths, remotes: Iterable[Remote], known: Known) -> dict[str, Held]:
    """What the other clusters' stores said. Of a damaged file the last good content stays."""
    found: dict[str, Held] = {}
    for remote in remotes:
        if remote.store is None:
            continue
        path, before = paths.clusters / f"{remote.name}.json", known.get(remote.name)
        try:
            data = read_bytes(path)
            if data is not None and (before is None or before[0] != data):
                before = (data, read_learned(data, str(path)))
        except WardmeshError as error:
            LOG.error("discovery: %s", error)
        if before is not None:
            found[remote.name] = before
    return found


def with_discovered(paths: Paths, inputs: Inputs) -> Inputs:
    """The same inputs with what is known from the stores now, and with the keys that this host has now; the
    same object where that is nothing new."""
    if inputs.rolled_out is None or inputs.mesh is None:
        return inputs
    data, learned = read_bytes(paths.discovered), _learned_of_clusters(paths, inputs.remotes, inputs.learned)
    before = inputs.mesh.own
    declared = inputs.rolled_out.by_name(before.name) or before
    fleet, own = with_own_keys(paths, inputs.config, inputs.rolled_out, declared)
    same = _same_keys(before, own) and learned == inputs.learned
    if same and data in (None, inputs.discovered_bytes):
        return inputs
    bare = replace(inputs, fleet=fleet, mesh=None, refused=(), joined=())
    made = _with_stores(bare, own, inputs.discovered_bytes if data is None else data, learned)
    return inputs if same and made.discovered_bytes == inputs.discovered_bytes else made


def _same_keys(before: Member, now: Member) -> bool:
    return (now.key, now.next_key) == (before.key, before.next_key)


def check_map(
    paths: Paths, config: Config, fleet: FleetMap, source: str, own_name: str = ""
) -> tuple[FleetMap, Member]:
    """Does the map fit to this host and its configuration? The map with this host's keys, and its member."""
    if fleet.cluster.name != config.cluster.name:
        raise WardmeshError(
            "map and configuration name different clusters",
            where=f"{source}: cluster.name",
            why=f"{fleet.cluster.name} against {config.cluster.name}",
            remedy=f"set cluster.name in {paths.config} to the fleet's, or send the right map",
        )
    own = _own_member(fleet, config, paths, source, own_name)
    return with_own_keys(paths, config, fleet, own)


def _own_member(fleet: FleetMap, config: Config, paths: Paths, source: str, own_name: str) -> Member:
    keys = own_public_keys(paths)
    former = former_keys(paths)[::-1] if changes_keys(config) else ()
    found = own_member(fleet, keys) or own_member(fleet, former)
    if found is not None:
        return found
    key = keys[0]
    namesake = fleet.by_name(own_name)
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
    if _same_fleet(paths, current, own_name, learned):
        files = read_policies(paths.policies)
        return replace(current, policies=parse_policies(files, str(paths.policies)), policy_files=files)
    new = load_inputs(paths, paths.config, paths.fleet, paths.policies, own_name, learned, current.learned)
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


def _same_fleet(paths: Paths, current: Inputs, own_name: str, learned: bytes | None) -> bool:
    """Is nothing new but, perhaps, the policies? Another policy then costs nothing that grows with the fleet.

    The keys of this host are checked against the map in any case: they are no part of what is compared.
    """
    if current.mesh is None or current.rolled_out is None:
        return False
    files = read_bytes(paths.config) or b"", read_bytes(paths.fleet)
    if files != (current.config_bytes, current.fleet_bytes):
        return False
    _fleet, own = check_map(paths, current.config, current.rolled_out, str(paths.fleet), own_name)
    return (
        _same_keys(current.mesh.own, own)
        and learned in (None, current.discovered_bytes)
        and _learned_of_clusters(paths, current.remotes, current.learned) == current.learned
    )


def remember(paths: Paths, inputs: Inputs) -> None:
    """Keep copies of what is in force now."""
    policies = json.dumps(dict(inputs.policy_files)).encode()
    kept = {"config.yaml": inputs.config_bytes, "fleet.json": inputs.fleet_bytes, "policies.json": policies}
    for name, data in kept.items():
        target = paths.last_good / name
        if data is not None and read_bytes(target) != data:
            write_atomic(target, data, 0o600)
    remember_discovered(paths, inputs)


def remember_discovered(paths: Paths, inputs: Inputs) -> None:
    """Keep a copy of what the store said, for a start without it."""
    target = paths.last_good / paths.discovered.name
    if inputs.discovered_bytes is not None and read_bytes(target) != inputs.discovered_bytes:
        write_atomic(target, inputs.discovered_bytes, 0o600)
