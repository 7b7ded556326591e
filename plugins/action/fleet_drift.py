# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares what hosts said of themselves with what would be rolled out, once, on the controller."""

from __future__ import annotations

import hashlib
import os

from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.action.fleet_map import declared, read
from ansible_collections.wardmesh.fleet.plugins.plugin_utils import _compile, _drift
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._bundle import bundle
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._files import read as read_texts


class ActionModule(ActionBase):
    """Needs no connection; use it with run_once."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        try:
            result.update(self._compare(self._task.args, task_vars))
        except (OSError, _compile.FleetMapError) as error:
            result.update(failed=True, msg=str(error))
        return result

    def _compare(self, arguments, task_vars):
        group = arguments.get("group", "wardmesh")
        variable = arguments.get("variable", "wardmesh_digest")
        hosts = declared(group, task_vars)
        before = read(arguments["registry"])
        old = _compile.parse_registry(before, arguments["registry"]) if before else _compile.empty_registry()
        merged, _warnings = _compile.merge(old, hosts, [])
        cluster = (arguments["cluster_name"], int(arguments.get("cluster_id", 1)))
        joining = [name for name in hosts if name not in merged["members"]]
        new, data = _compile.compile_map(merged, *cluster) if merged["members"] else (merged, b"")
        reference = {
            "map": {"digest": hashlib.sha256(data).hexdigest(), "generation": str(new["generation"])},
            "agent": {"digest": hashlib.sha256(bundle()).hexdigest()},
        }
        policies = [path for path in self._paths(arguments) if os.path.exists(path)]
        if policies:
            reference["policies"] = {"digest": _drift.policies(read_texts(policies))}
        asked = [name for name in task_vars["ansible_play_hosts_all"] if name in hosts]
        said = {
            name: task_vars["hostvars"][name].get(variable) or {}
            for name in asked
            if name in task_vars["ansible_play_hosts"]
        }
        return _drift.compare(asked, said, reference, joining)

    def _paths(self, arguments):
        given = arguments.get("policies") or []
        return [given] if isinstance(given, str) else [str(path) for path in given]
