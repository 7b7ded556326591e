# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends the fleet map to hosts that have another one."""

from __future__ import annotations

import base64

from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._files import read_bytes


class ActionModule(ActionBase):
    """Nothing crosses the network when the host has the map already; else the map goes with the module's call."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self._task.check_mode and arguments.get("predicted"):
            result.update(changed=True)
            return result
        if arguments.get("digest") and arguments["digest"] == arguments.get("current"):
            result.update(changed=False)
            return result
        try:
            data = read_bytes(arguments["src"], "to be sent")
        except OSError as error:
            result.update(failed=True, msg=str(error))
            return result
        arguments["content"] = base64.b64encode(data).decode()
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return result
