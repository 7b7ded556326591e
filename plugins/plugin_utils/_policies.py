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


def checked(files: Mapping[str, str]) -> dict[str, str]:
    """The files, if they are a valid set that can be enforced; the same set is parsed once for all hosts."""
    key = hash(tuple(sorted(files.items())))
    if key not in _known:
        if str(AGENT) not in sys.path:
            sys.path.insert(0, str(AGENT))
        from wardmesh.model.errors import WardmeshError
        from wardmesh.policy.files import parse_policies

        try:
            parse_policies(sorted(files.items()), "policies")
        except WardmeshError as error:
            raise PolicyFilesError(str(error)) from error
        _known[key] = True
    return dict(files)
