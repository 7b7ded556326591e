# SPDX-License-Identifier: Apache-2.0
"""The map in force as a file, for the observer, the other services and the command line."""

from __future__ import annotations

from wardmesh.daemon.inputs import Inputs
from wardmesh.discovery.document import sealed_with_members, texts
from wardmesh.discovery.members import clusters_document, member_document
from wardmesh.host.files import write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.fleetmap import FORMAT, Member


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
        "clusters": clusters_document(fleet),
        "members": [],
    }
    home = {member.name: member for member in fleet.home}
    members = texts(home, _shared, member_document)
    write_atomic(paths.shared_fleet, sealed_with_members(document, members))


_shared: dict[str, tuple[Member, bytes]] = {}  # as they were shared last: few change between two times
