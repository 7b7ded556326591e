# SPDX-License-Identifier: Apache-2.0
"""What the hosts wrote of themselves into the store: digests, and whom they reach."""

from __future__ import annotations

import os
import random
from typing import Any

from wardmesh.cli.local import read_config
from wardmesh.discovery.backend import Entry
from wardmesh.discovery.keys import states_prefix
from wardmesh.discovery.process import connect
from wardmesh.discovery.settings import Settings, read_settings
from wardmesh.health.drift import Report
from wardmesh.health.showing import read_shown
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap


def from_store(paths: Paths, fleet: FleetMap) -> tuple[list[Report], dict[str, Any]]:
    """Reports of all members, and what each says of its peers by name."""
    config = read_config(paths.config, needed=False)
    settings = read_settings(config.values)
    if settings is None:
        raise WardmeshError("no store is configured", where=str(paths.config), remedy="leave --store out")
    prefix = states_prefix(fleet.cluster.name)
    found = {entry.key[len(prefix) :]: entry.value for entry in _entries(settings, prefix)}
    reports, health = [], {}
    for member in fleet.members:
        if member.name not in found:
            why = "it wrote nothing into the store: its agent is away, old, or has no right to"
            reports.append(Report(member.name, problem=why))
            continue
        report, peers = read_shown(member.name, found[member.name])
        reports.append(report)
        if peers:
            health[member.name] = peers
    return reports, health


def _entries(settings: Settings, prefix: str) -> list[Entry]:
    """By the first server that answers."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    problem = WardmeshError("no server of the store answers")
    for server in random.sample(settings.servers, len(settings.servers)):
        try:
            backend = connect(settings)(server, 0)
            try:
                return backend.snapshot(prefix)
            finally:
                backend.close()
        except WardmeshError as error:
            problem = error
    raise problem
