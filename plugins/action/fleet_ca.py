# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signs what hosts asked for, once, in the CA's folder on the controller. No key is in the result."""

from __future__ import annotations

import time

from ansible.parsing.vault import is_encrypted
from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.action.fleet_map import read
from ansible_collections.wardmesh.fleet.plugins.plugin_utils import _authority


def requests_of(variable, task_vars):
    """Host to what it asked for in this run; hosts that were skipped asked for nothing."""
    found = {}
    for host in task_vars.get("ansible_play_hosts", []):
        facts = task_vars["hostvars"][host].get(variable) or {}
        if "csr" in facts:
            found[str(host)] = facts
    return found


class ActionModule(ActionBase):
    """Needs no connection; use it with run_once."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _authority.agent()
        from wardmesh.model.errors import WardmeshError

        try:
            result.update(self._sign(self._task.args, task_vars))
        except (OSError, WardmeshError, _authority.AuthorityError) as error:
            result.update(failed=True, msg=str(error))
        return result

    def _plain(self, data):
        return self._loader._vault.decrypt(data) if is_encrypted(data) else data

    def _sign(self, arguments, task_vars):
        from wardmesh.model.map_parser import parse_fleet_map

        check, now = bool(self._task.check_mode), time.time()
        days = int(arguments.get("days", 180))
        client, external = arguments.get("client") or "", bool(arguments.get("external"))
        asked = requests_of(arguments.get("variable", "wardmesh_certificate_request"), task_vars)
        data = read(arguments["map"])
        if not data and check:
            return {
                "changed": True,
                **answer(_authority.Plan(pending=sorted(asked), predicted=sorted(asked))),
            }
        fleet = parse_fleet_map(data, arguments["map"])
        folder = _authority.Folder(arguments["dir"], self._plain, check=check)
        if client:
            plan = _authority.sign_client(folder, fleet.cluster.name, client, now, days)
        elif external:
            plan = _authority.await_signed(folder, fleet, asked, now, check=check)
        else:
            plan = _authority.sign_fleet(folder, fleet, asked, now, days, check=check)
        return {"changed": plan.changed, **answer(plan)}


def answer(plan):
    """A plan as the task's result."""
    return {
        "certificates": plan.certificates,
        "ca": plan.ca,
        "pending": plan.pending,
        "predicted": plan.predicted,
        "warnings": plan.warnings,
        "diff": {"before": "", "after": "".join("%s\n" % line for line in plan.lines)},
    }
