# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policy files checked by the agent's own parser, on the controller. Private to the collection."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

AGENT = Path(__file__).parents[2] / "agent"
_known: dict[int, bool] = {}


class PolicyFilesError(Exception):
    """A file is not valid; the text says where, why and what to do."""


def checked(
    files: Mapping[str, str], tests: Mapping[str, str], fleet_map: bytes, *, whole: bool = False
) -> dict[str, str]:
    """The files, if they are a valid set that can be enforced and every assertion of tests holds.

    fleet_map: bytes of the map that says who is who, for the tests. whole: they are to be all that is enforced.
    The same set is judged once for all hosts.
    """
    if whole and not files:
        raise PolicyFilesError(
            "no policy file was found: a set of none would open every host, none was touched "
            "(remedy: correct src, or run wardmesh policy delete --all on the hosts)"
        )
    key = hash((tuple(sorted(files.items())), tuple(sorted(tests.items())), fleet_map))
    if key not in _known:
        _judge(files, tests, fleet_map)
        _known[key] = True
    return dict(files)


def _judge(files: Mapping[str, str], tests: Mapping[str, str], fleet_map: bytes) -> None:
    if str(AGENT) not in sys.path:
        sys.path.insert(0, str(AGENT))
    from wardmesh.model.errors import WardmeshError
    from wardmesh.model.map_parser import parse_fleet_map
    from wardmesh.policy.assertions import check_assertions
    from wardmesh.policy.engine import Engine
    from wardmesh.policy.files import parse_policies
    from wardmesh.policy.view import endpoints_of

    failed: list[str] = []
    try:
        policies = parse_policies(sorted(files.items()), "policies")
        if tests:
            fleet = parse_fleet_map(fleet_map, "the fleet map")
            engine = Engine(policies, endpoints_of(fleet), fleet.cluster.name)
            for name, text in tests.items():
                failed += check_assertions(engine, text, name)[1]
    except WardmeshError as error:
        raise PolicyFilesError(str(error)) from error
    if failed:
        raise PolicyFilesError(
            "%d assertions about these policies do not hold, no host was touched: %s"
            % (len(failed), "; ".join(failed))
        )
