# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the agent's zipapp on the controller and sends it where it is not there yet."""

from __future__ import annotations

import hashlib
import tempfile

from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._bundle import bundle


class ActionModule(ActionBase):
    """state present: send and switch; state rollback: the module alone."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("state", "present") == "rollback":
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
            return result
        data = bundle()
        digest = hashlib.sha256(data).hexdigest()
        if arguments.get("current") == digest:
            result.update(changed=False, digest=digest)
            return result
        arguments["digest"] = digest
        if not self._task.check_mode:
            remote = self._make_tmp_path()
            with tempfile.NamedTemporaryFile(suffix=".pyz") as local:
                local.write(data)
                local.flush()
                target = self._connection._shell.join_path(remote, "wardmesh.pyz")
                self._transfer_file(local.name, target)
            self._fixup_perms2((remote, target))
            arguments["source"] = target
        result.update(
            self._execute_module(
                module_name="wardmesh.fleet.agent_bundle", module_args=arguments, task_vars=task_vars
            )
        )
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
