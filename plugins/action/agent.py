# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says on the controller what a host should have, and sends it only where preflight saw something else."""

from __future__ import annotations

import base64
import hashlib

from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._bundle import bundle, units


def sha256(data):
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_whole(seen, wanted):
    """Has the host, by what preflight saw, all of these files, its packages and its key, and does the agent run?"""
    digests = seen.get("digests") or {}
    return (
        not seen.get("packages")
        and bool(seen.get("active"))
        and bool((seen.get("node") or {}).get("public_key"))
        and all(digests.get(name) == digest for name, digest in wanted.items())
    )


class ActionModule(ActionBase):
    """state present: one call with all that is missing; state rollback: the module alone."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        seen = arguments.pop("seen", None) or {}
        if arguments.get("state", "present") == "present" and arguments.get("config") is not None:
            data, texts = bundle(), units()
            wanted = {name: sha256(text.encode()) for name, text in texts.items()}
            wanted.update(agent=sha256(data), config=sha256(arguments["config"].encode()))
            if is_whole(seen, wanted):
                result.update(changed=False, digest=wanted["agent"], renewed=False, parts=[])
                return result
            arguments.update(units=texts, digest=wanted["agent"], lacking=bool(seen.get("packages")))
            if (seen.get("digests") or {}).get("agent") != wanted["agent"]:
                arguments["bundle"] = base64.b64encode(data).decode()
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return result
