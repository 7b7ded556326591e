# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collects what hosts reported and what the inventory says, once, and writes registry and map."""

from __future__ import annotations

import hashlib
import os
import tempfile

from ansible.plugins.action import ActionBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils import _compile, _rotation

FIELDS = {
    "wardmesh_endpoint": "endpoint",
    "wardmesh_next_endpoint": "next_endpoint",
    "wardmesh_keepalive": "keepalive",
    "wardmesh_allowed_ips": "allowed_ips",
    "wardmesh_labels": "labels",
    "wardmesh_ports": "ports",
}


def declared(group, task_vars):
    """Every host of the group with its variables and, where it reported in this run, its facts."""
    found = {}
    for name in task_vars["groups"].get(group, []):
        variables = task_vars["hostvars"][name]
        report = (variables.get("wardmesh_agent_installed") or {}).get("node") or {}
        told = variables.get("wardmesh_preflight_result") or variables.get("wardmesh_digest") or {}
        if not report.get("public_key"):
            report = told.get("node") or {}
        facts = {
            "looked_at": "node" in told,
            "key": report.get("public_key") or "",
            "next_key": report.get("next_public_key") or "",
            "key_generation": report.get("key_generation") or 0,
            "own_labels": report.get("labels"),
            "addresses": list(variables.get("wardmesh_addresses") or report.get("addresses") or []),
        }
        for variable, field in FIELDS.items():
            value = variables.get(variable)
            if value:
                facts[field] = value
        if facts.get("labels"):
            facts["labels"] = {str(key): str(value) for key, value in facts["labels"].items()}
        found[str(name)] = facts
    return found


def staged(names, task_vars):
    """The next public keys that these hosts said in this run; empty where one said none."""
    found = {name: task_vars["hostvars"].get(name, {}).get("wardmesh_rotate_staged") or {} for name in names}
    return {name: report.get("next_public_key") or "" for name, report in found.items()}


def standing(members, task_vars):
    """Where each member stands, as it said in this run."""
    found = {}
    for name in members:
        report = task_vars["hostvars"].get(name, {}).get("wardmesh_rotate_report") or {}
        if "rotation" in report:
            found[name] = report["rotation"]
    return found


def read(path):
    """Bytes of a file, empty where there is none."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return b""


def write(path, data):
    """Replace a file in one step."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".")
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), 0o644)
    os.replace(temporary, path)


class ActionModule(ActionBase):
    """Needs no connection; use it with run_once."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        try:
            result.update(self._compile(arguments, task_vars))
        except (_compile.FleetMapError, _rotation.RotationError) as error:
            result.update(failed=True, msg=str(error))
        return result

    def _compile(self, arguments, task_vars):
        source, target = arguments["registry"], arguments["map"]
        hosts = declared(arguments.get("group", "wardmesh"), task_vars)
        before, map_before = read(source), read(target)
        old = _compile.parse_registry(before, source) if before else _compile.empty_registry()
        remove = [str(name) for name in arguments.get("remove") or []]
        merged, warnings = _compile.merge(old, hosts, remove)
        if not arguments.get("allow_shrink"):
            _compile.guard_shrink(old, merged, int(arguments.get("shrink_limit", 20)))
        rotated, unstaged = self._rotate(merged, map_before, task_vars)
        new, data = _compile.compile_map(
            rotated, arguments["cluster_name"], int(arguments.get("cluster_id", 1))
        )
        after = _compile.registry_bytes(new)
        unborn = _compile.keyless(new, hosts, remove)
        predicted = bool(self._task.check_mode and (unborn or unstaged))
        changed = before != after or map_before != data or predicted
        if changed and not self._task.check_mode:
            write(source, after)
            write(target, data)
        if self._task.check_mode and map_before != data:
            predicted = True
        return {
            "changed": changed,
            "digest": hashlib.sha256(data).hexdigest(),
            "generation": new["generation"],
            "members": len(new["members"]),
            "predicted": predicted,
            "rotating": _rotation.rotating(new),
            "warnings": [] if self._task.check_mode else warnings,
            "diff": {
                "before": before.decode(),
                "after": after.decode(),
                "before_header": source,
                "after_header": source,
            },
        }

    def _rotate(self, registry, map_before, task_vars):
        """The registry after the wished step of a rotation, and the hosts whose next key is not born yet."""
        step = self._task.args.get("rotate") or ""
        names = [str(name) for name in self._task.args.get("rotate_hosts") or []]
        if step == "retire":
            digest = hashlib.sha256(map_before).hexdigest()
            return _rotation.retire(registry, standing(registry["members"], task_vars), digest), []
        keys = staged(names, task_vars) if step else {}
        unborn = [name for name, key in keys.items() if not key]
        if self._task.check_mode and unborn:
            return registry, unborn
        if step == "stage":
            return _rotation.stage(registry, keys), []
        if step == "compromised":
            return _rotation.compromised(registry, keys), []
        return registry, []
