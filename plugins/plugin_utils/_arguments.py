# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables of a host against the argument specs of this collection's roles. Private to the collection."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml
from ansible.errors import AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._bundle import root
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._once import once


def problems(roles: Iterable[str], variables: Mapping[str, Any], template: Callable[[Any], Any]) -> list[str]:
    """What is wrong with them, for the roles' main entry points.

    A value that says what only a later role knows is left out: it fails where it is used.
    """
    found = []
    for role in roles:
        options, given = _options(role), {}
        for name in options:
            if name in variables:
                try:
                    given[name] = template(variables[name])
                except AnsibleUndefinedVariable:
                    continue
        messages = ArgumentSpecValidator(options).validate(given).error_messages
        found += ["role %s: %s (remedy: correct the inventory)" % (role, message) for message in messages]
    return found


def _options(role: str) -> dict[str, Any]:
    """The options of a role's main entry point; YAML is read once in a run, being slow."""
    path = os.path.join(root(), "roles", role, "meta", "argument_specs.yml")

    def read() -> bytes:
        with open(path, "rb") as stream:
            return json.dumps(yaml.safe_load(stream)["argument_specs"]["main"]["options"]).encode()

    options: dict[str, Any] = json.loads(once("arguments-%s.json" % role, read))
    return options
