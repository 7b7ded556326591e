# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends the fleet map to hosts that have another one."""

from __future__ import annotations

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Nothing crosses the network when the host has the map already."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self._task.check_mode and arguments.get("predicted"):
            result.update(changed=True)
            return result
        if arguments.get("digest") and arguments["digest"] == arguments.get("current"):
            result.update(changed=False)
            return result
        remote = self._make_tmp_path()
        target = self._connection._shell.join_path(remote, "fleet.json")
        self._transfer_file(arguments["src"], target)
        self._fixup_perms2((remote, target))
        arguments["src"] = target
        result.update(
            self._execute_module(
                module_name="wardmesh.fleet.mesh", module_args=arguments, task_vars=task_vars
            )
        )
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
