# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of what the role agent would install."""

from __future__ import annotations

DOCUMENTATION = r"""
name: bundle
short_description: Digests of the agent and its units, as this collection would install them
version_added: 0.1.0
author:
  - wardmesh contributors (@wardmesh)
description:
  - Builds the agent on the controller, once per process, and returns its SHA-256 and those of its units.
options: {}
"""

EXAMPLES = r"""
- name: Show
  ansible.builtin.debug:
    msg: "{{ lookup('wardmesh.fleet.bundle') }}"
"""

RETURN = r"""
_raw:
  description: Digest of the agent, and of each unit by name.
  type: list
  elements: dict
"""

import hashlib
import os

import ansible_collections.wardmesh.fleet as collection
from ansible.plugins.lookup import LookupBase
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._bundle import bundle


class LookupModule(LookupBase):
    """No terms, no options."""

    def run(self, terms, variables=None, **kwargs):  # noqa: ARG002 - the base class's signature
        folder = os.path.join(os.path.realpath(next(iter(collection.__path__))), "agent", "systemd")
        units = {}
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), "rb") as stream:
                units[name] = hashlib.sha256(stream.read()).hexdigest()
        return [{"digest": hashlib.sha256(bundle()).hexdigest(), "units": units}]
