# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says on the controller whom this host tests, and what policy lets pass there."""

from __future__ import annotations

import json

from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._connectivity import PlanError, plan
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._files import read, read_bytes


def config_of(hostvars, name):
    """What the roles wrote into the config.yaml of a member, as far as it decides what passes."""
    return json.dumps(hostvars[name].get("wardmesh_config") or {}) if name in hostvars else "{}"


def written(port):
    """5432 as 5432/tcp."""
    return str(port) if "/" in str(port) else "%s/tcp" % port


class ActionModule(ActionBase):
    """Without policies the host's installed ones say what is expected."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        sources = arguments.pop("policies", None) or []
        fleet_map = arguments.pop("fleet_map", None)
        sources = [sources] if isinstance(sources, str) else list(sources)
        if sources:
            try:
                arguments["plan"] = plan(
                    task_vars["inventory_hostname"],
                    read_bytes(fleet_map, "to say who is who"),
                    read([self._find_needle("files", path) for path in sources]),
                    [written(port) for port in arguments.get("ports") or ["4240/tcp"]],
                    lambda name: config_of(task_vars["hostvars"], name),
                )
            except (OSError, PlanError) as error:
                result.update(failed=True, msg=str(error))
                return result
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return result
