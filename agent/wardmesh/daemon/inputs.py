# SPDX-License-Identifier: Apache-2.0
"""The files that decide, read and checked whole; the last good ones are kept aside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, check_succession, parse_fleet_map


@dataclass(frozen=True)
class Inputs:
    """Configuration and map with the bytes that they came from."""

    config: Config
    fleet: FleetMap | None
    config_bytes: bytes
    fleet_bytes: bytes | None

    def digests(self) -> dict[str, str]:
        """SHA-256 of the files in force."""
        return {
            "config": hashlib.sha256(self.config_bytes).hexdigest(),
            "fleet": hashlib.sha256(self.fleet_bytes or b"").hexdigest(),
        }


def _decode(data: bytes, source: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WardmeshError(
            "not UTF-8", where=str(source), why=str(error), remedy="save the file as UTF-8"
        ) from error


def load_inputs(config: Path, fleet: Path) -> Inputs:
    """Read and check both files; a missing configuration is the default one, a missing map is no map."""
    config_bytes = read_bytes(config) or b""
    fleet_bytes = read_bytes(fleet)
    parsed = parse_config(_decode(config_bytes, config), str(config))
    fleet_map = parse_fleet_map(fleet_bytes, str(fleet)) if fleet_bytes is not None else None
    if fleet_map and fleet_map.cluster.name != parsed.cluster.name:
        raise WardmeshError(
            "map and configuration name different clusters",
            where=f"{fleet}: cluster.name",
            why=f"{fleet_map.cluster.name} against {parsed.cluster.name}",
            remedy="set cluster.name in config.yaml to the fleet's, or send the right map",
        )
    return Inputs(parsed, fleet_map, config_bytes, fleet_bytes)


def load_or_last_good(paths: Paths) -> tuple[Inputs, list[str]]:
    """At start: what lies in /etc, else the last good copies, with the problems that led there."""
    good_config, good_fleet = paths.last_good / "config.yaml", paths.last_good / "fleet.json"
    try:
        inputs = load_inputs(paths.config, paths.fleet)
        if good_fleet.exists() and inputs.fleet is not None:
            last = load_inputs(good_config, good_fleet)
            check_succession(last.fleet, inputs.fleet, str(paths.fleet))
        elif good_fleet.exists():
            raise WardmeshError(
                "the fleet map is gone",
                where=str(paths.fleet),
                why="this host had one before",
                remedy="run the playbook, or: wardmesh cleanup",
            )
        return inputs, []
    except WardmeshError as error:
        if not good_config.exists():
            raise
        return load_inputs(good_config, good_fleet), [f"{error} - the last good state stays in force"]


def remember(paths: Paths, inputs: Inputs) -> None:
    """Keep copies of what is in force now."""
    for name, data in (("config.yaml", inputs.config_bytes), ("fleet.json", inputs.fleet_bytes)):
        target = paths.last_good / name
        if data is not None and read_bytes(target) != data:
            write_atomic(target, data, 0o600)
