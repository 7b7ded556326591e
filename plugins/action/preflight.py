# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what is wanted of this host, as far as the task does not, and judges the roles' variables beside the host."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils import _arguments, _wanted


class ActionModule(ActionBase):
    """One call of the module; what is wrong with variables joins what is wrong with the host."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self._variables = task_vars or {}
        arguments = dict(self._task.args)
        roles, verbose = arguments.pop("roles", None) or [], arguments.pop("verbose", False)
        wrong = _arguments.problems(roles, self._variables, self._templar.template)
        config = self._value("wardmesh_config", {}) or {}
        wanted = {} if wrong else self._wanted(config)
        result.update(self._execute_module(module_args={**wanted, **arguments}, task_vars=task_vars))
        if "errors" in result:
            self._judge(result, wrong)
        if "digests" in result and not wrong:
            relay = self._is_in("wardmesh_relay_group", "")
            result["observing"] = _wanted.observes(config, relay, result["digests"])
        if verbose and result.get("advice"):
            own = self._variables.get("inventory_hostname", "")
            advice = ["%s: %s" % (own, line) for line in result["advice"]]
            result["warnings"] = [*result.get("warnings", []), *advice]
        return result

    def _value(self, name, fallback=None):
        return self._templar.template(self._variables[name]) if name in self._variables else fallback

    def _members(self, variable, fallback):
        return self._variables.get("groups", {}).get(self._value(variable, fallback) or "", [])

    def _is_in(self, variable, fallback):
        return self._variables.get("inventory_hostname") in self._members(variable, fallback)

    def _wanted(self, config):
        own = self._variables.get("inventory_hostname", "")
        others = _wanted.neighbours(self._members("wardmesh_group", "wardmesh"), own)
        reached = [self._variables["hostvars"][name].get("ansible_host") for name in others]
        addresses = self._value("wardmesh_addresses", [])
        return {
            "addresses": addresses,
            "hint": (addresses or [self._value("ansible_host", own)])[0],
            "port": _wanted.setting(config, "encryption.listenPort", _wanted.PORT),
            "peers": [address for address in reached if address],
            "observer": _wanted.is_on(config, *_wanted.OBSERVING) or self._is_in("wardmesh_relay_group", ""),
            "store": _wanted.follows_store(config) or self._is_in("wardmesh_kvstore_group", "kvstore"),
            "now": time.time(),
        }

    def _judge(self, result, wrong):
        result["errors"] = [*wrong, *result["errors"]]
        if wrong:
            result.update(failed=True, msg="; ".join(result["errors"]))
