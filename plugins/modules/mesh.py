# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply the fleet map on a host"""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh
short_description: Apply the fleet map on a host
version_added: 0.1.0
description:
  - Sends the map when the host has another one, and lets the agent check, install and apply it.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  src:
    description: The map on the controller, as written by M(wardmesh.fleet.fleet_map).
    type: path
    required: true
  digest:
    description: SHA-256 of the map.
    type: str
    default: ''
  current:
    description: SHA-256 of the map that the host has, as reported by M(wardmesh.fleet.preflight).
    type: str
    default: ''
  content:
    description: The map in base64, by the action plugin; not for playbooks.
    type: str
  predicted:
    description: In check mode, whether the map will change although it cannot be compiled yet.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Apply the map
  wardmesh.fleet.mesh:
    src: /srv/inventory/wardmesh-fleet.json
    digest: "{{ wardmesh_map.digest }}"
"""

RETURN = r"""
generation:
  description: Generation of the map.
  returned: when the host was asked
  type: int
peers_added:
  description: Names of new members.
  returned: when the host was asked
  type: list
  elements: str
peers_removed:
  description: Names of members that left.
  returned: when the host was asked
  type: list
  elements: str
peers_updated:
  description: Names of members that changed.
  returned: when the host was asked
  type: list
  elements: str
"""

# The map is read by the action plugin of the same name.

import base64
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def received(module):
    """The map as a file that goes with the module."""
    handle, path = tempfile.mkstemp(dir=module.tmpdir, suffix=".json")
    with os.fdopen(handle, "wb") as stream:
        stream.write(base64.b64decode(module.params["content"] or ""))
    return path


def main():
    module = AnsibleModule(
        {
            "src": {"type": "path", "required": True},
            "digest": {"type": "str", "default": ""},
            "current": {"type": "str", "default": ""},
            # No secret: but neither the journal nor the result is to have all of it.
            "content": {"type": "str", "no_log": True},
            "predicted": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not _agent.installed():
        if not module.check_mode:
            module.fail_json(
                msg="the agent is not installed (remedy: run the role wardmesh.fleet.agent first)"
            )
        module.exit_json(changed=True)
    words = ["fleet", "apply", received(module)] + (["--dry-run"] if module.check_mode else [])
    answer = _agent.call(module, words)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
