# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rotation of keys does to the registry: pure, no Ansible in it. Private to the collection.

    stage        a member gets next_key beside its key: the map brings up second tunnels everywhere
    retire       next_key becomes key, once every member says that it sends through the second tunnels
    compromised  the same for one member at once: the old key is dropped, and that member is cut off for a moment

The registry alone says where a rotation stands: as long as a next_key is in it, one is under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Registry = Mapping[str, Any]
_MOST = 20  # problems that one message names


class RotationError(Exception):
    """The registry stays as it is; the text says which members are in the way, and what to do."""


def rotating(registry: Registry) -> list[str]:
    """Members with a next key."""
    return sorted(name for name, entry in registry["members"].items() if entry.get("next_key"))


def partners(registry: Registry, name: str) -> set[str]:
    """The members to which this one has a second tunnel while these keys rotate."""
    among = set(rotating(registry))
    others = set(registry["members"]) - {name}
    return others if name in among else others & among


def stage(registry: Registry, staged: Mapping[str, str]) -> dict[str, Any]:
    """staged: the next public key of each host that is to rotate, as it reported it."""
    problems = []
    members = {name: dict(entry) for name, entry in registry["members"].items()}
    for name, key in sorted(staged.items()):
        if name not in members:
            problems.append(f"{name} is no member; run site.yml first")
        elif not key:
            problems.append(f"{name} reported no next key")
        elif key == members[name]["key"]:
            problems.append(f"{name} has not put its last staged key in use; restart its agent")
        else:
            members[name]["next_key"] = key
    _refuse("nothing was staged", problems)
    return {**registry, "members": members}


def retire(registry: Registry, reports: Mapping[str, Mapping[str, Any]], digest: str) -> dict[str, Any]:
    """reports: by member what `wardmesh encryption rotate` says; digest: SHA-256 of the map of the second tunnels."""
    among = rotating(registry)
    problems = []
    for name in sorted(registry["members"]) if among else ():
        report = reports.get(name)
        if report is None:
            problems.append(f"{name} did not report")
            continue
        if report.get("fleet") != digest:
            problems.append(f"{name} has another fleet map")
        missing = sorted(partners(registry, name) - set(report.get("sending", ())))
        if missing:
            problems.append(f"{name} does not send through the second tunnel to {', '.join(missing)}")
    _refuse("the old keys stay, since not every member uses the new ones", problems)
    return _promoted(registry, among)


def compromised(registry: Registry, staged: Mapping[str, str]) -> dict[str, Any]:
    """The old keys of these hosts go at once; the other hosts' rotation, if there is one, goes on."""
    return _promoted(stage(registry, staged), staged)


def _promoted(registry: Registry, names: Iterable[str]) -> dict[str, Any]:
    members = {name: dict(entry) for name, entry in registry["members"].items()}
    for name in names:
        following = members[name].pop("next_key", None)
        if following:
            members[name]["key"] = following
            members[name]["key_generation"] = int(members[name].get("key_generation") or 1) + 1
    return {**registry, "members": members}


def _refuse(what: str, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        raise RotationError(
            f"{what}: {'; '.join(problems[:_MOST])}{more}; the fleet works on as it is, run rotate_keys.yml again "
            "when they are back (or remove a member that stays away by decommission.yml)"
        )
