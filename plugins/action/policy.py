# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks policies on the controller before a host is touched, and says which rule cut the controller off."""

from __future__ import annotations

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._files import read, read_bytes
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._policies import PolicyFilesError, checked


class ActionModule(ActionBase):
    """state confirmed and absent: the module alone."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("state", "present") in ("absent", "confirmed"):
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
            return result
        try:
            sources = arguments.get("src") or []
            sources = [sources] if isinstance(sources, str) else list(sources)
            tests = arguments.pop("tests", None) or []
            who = arguments.pop("fleet_map", None)
            arguments["files"] = checked(
                read([self._find_needle("files", path) for path in sources]),
                read(tests),
                read_bytes(who, "to test the policies on") if tests else b"",
                whole=arguments.get("state") == "replaced",
            )
        except (OSError, PolicyFilesError) as error:
            result.update(failed=True, msg=str(error))
            return result
        self._task.check_mode, check = True, self._task.check_mode
        preview = self._execute_module(module_args=arguments, task_vars=task_vars)
        self._task.check_mode = check
        if check or preview.get("failed") or not preview.get("changed"):
            result.update(preview)
            return result
        verdict = preview.get("controller", "")
        try:
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        except AnsibleConnectionFailure as error:
            seconds = arguments.get("confirm_within") or 0
            back = (
                "the host returns to the policies before within %s s" % seconds if seconds else "not on trial"
            )
            result.update(
                failed=True,
                msg="the new policies cut the controller off (%s): %s; %s" % (error, verdict, back),
            )
        result["controller"] = verdict
        return result
