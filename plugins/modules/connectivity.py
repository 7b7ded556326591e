# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Test what passes from a host to other members"""

from __future__ import annotations

DOCUMENTATION = r"""
module: connectivity
short_description: Test what passes from a host to other members
version_added: 0.2.0
description:
  - Sends echoes, large packets and TCP connections to other members, and reads from the counters of the WireGuard
    device whether they were encrypted. Compares with what policy says.
  - Tests every other member of a fleet of up to 30, and three of each larger one.
  - Changes nothing, so it does the same in check mode.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  ports:
    description: TCP ports to connect to, like V(5432/tcp). A refused connection has passed.
    type: list
    elements: str
    default: [4240/tcp]
  policies:
    description:
      - Policy files, or folders of them, on the controller; what they say is expected of hosts whose firewall
        is on in C(wardmesh_config). Without any, what the policies say that are installed on the host.
    type: list
    elements: path
    default: []
  fleet_map:
    description: The fleet map on the controller; needed for O(policies).
    type: path
  plan:
    description: Whom to test, and what is expected; filled in on the controller.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Test the members
  wardmesh.fleet.connectivity:
    ports: [4240/tcp, 5432/tcp]
"""

RETURN = r"""
rows:
  description: One for each member that was tested; C(cells) are the words of a table's columns.
  returned: when the agent answers
  type: list
  elements: dict
differences:
  description: How many of them differ from what is expected.
  returned: when the agent answers
  type: int
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def words(module):
    """The agent's command line; the plan goes by a file, for it may be long."""
    found = ["connectivity", "test"]
    if module.params["plan"]:
        path = os.path.join(module.tmpdir, "plan.json")
        with open(path, "w") as stream:
            json.dump({"targets": module.params["plan"]}, stream)
        return [*found, "--plan", path]
    for port in module.params["ports"]:
        found += ["--port", port]
    return found


def main():
    module = AnsibleModule(
        {
            "ports": {"type": "list", "elements": "str", "default": ["4240/tcp"]},
            "policies": {"type": "list", "elements": "path", "default": []},
            "fleet_map": {"type": "path"},
            "plan": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    if not _agent.installed():
        module.fail_json(msg="the agent is not installed (remedy: run wardmesh.fleet.site first)")
    answer = _agent.call(module, words(module), differs=(1,))
    module.exit_json(changed=False, rows=answer["rows"], differences=answer["differences"])


if __name__ == "__main__":
    main()
