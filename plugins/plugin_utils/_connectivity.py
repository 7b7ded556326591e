# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom a host tests and what is expected of it, by the agent's own code. Private to the collection."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

AGENT = Path(__file__).parents[2] / "agent"


class PlanError(Exception):
    """Nothing can be tested; the text says where, why and what to do."""


def plan(
    own: str,
    fleet_map: bytes,
    files: Mapping[str, str],
    ports: Iterable[str],
    config_of: Callable[[str], str],
) -> list[dict[str, Any]]:
    """Targets of one member, as `wardmesh connectivity test --plan` reads them.

    files: policies by name; config_of: text of a member's config.yaml by its name; asked only about
    this member and its targets.
    """
    if str(AGENT) not in sys.path:
        sys.path.insert(0, str(AGENT))
    from wardmesh.health.pairs import targets
    from wardmesh.model.config import parse_config
    from wardmesh.model.errors import WardmeshError
    from wardmesh.model.map_parser import parse_fleet_map
    from wardmesh.policy.engine import Engine
    from wardmesh.policy.files import parse_policies
    from wardmesh.policy.passes import between, failsafe_of
    from wardmesh.policy.view import endpoints_of

    try:
        fleet = parse_fleet_map(fleet_map, "the fleet map")
        members = {member.name: member for member in fleet.members}
        if own not in members:
            raise PlanError("%s is not in the fleet map (remedy: run site.yml for it)" % own)
        policies = parse_policies(sorted(files.items()), "policies")
        engine = Engine(policies, endpoints_of(fleet), fleet.cluster.name)
        chosen = targets(members, own)
        parsed = {name: parse_config(config_of(name), "configuration of " + name) for name in (own, *chosen)}
        safe = {name: failsafe_of(config) for name, config in parsed.items()}
        walls = {
            name for name, config in parsed.items() if config.firewall.enabled and not config.firewall.audit
        }
        found = []
        for name in chosen:
            sides = (safe[own], safe[name])
            enforced = (own in walls, name in walls)
            icmp = "128/icmpv6" if members[name].addresses[0].version == 6 else "8/icmp"
            judged = {port: between(engine, own, name, port, sides, enforced) for port in (icmp, *ports)}
            found.append(
                {
                    "name": name,
                    "icmp": {"passes": judged[icmp][0], "why": judged[icmp][1]},
                    "ports": [
                        {"port": port, "passes": judged[port][0], "why": judged[port][1]} for port in ports
                    ],
                }
            )
        return found
    except WardmeshError as error:
        raise PlanError(str(error)) from error
