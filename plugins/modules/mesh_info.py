# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Report the state of the mesh as a host sees it"""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_info
short_description: Report the state of the mesh as a host sees it
version_added: 0.1.0
description:
  - Can wait until every tunnel is up.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  wait:
    description: Seconds to wait for tunnels to members that are expected to answer.
    type: int
    default: 0
  expected:
    description: Members that are expected to answer; the others are only reported.
    type: list
    elements: str
    default: []
  brief:
    description: Leave the peers out of the status, so that the answers of a fleet grow with its hosts and not with their pairs.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: State of the mesh
  wardmesh.fleet.mesh_info:
    wait: 30
"""

RETURN = r"""
status:
  description: What C(wardmesh status -o json) prints.
  returned: when the agent answers
  type: dict
unverified:
  description: Members whose tunnel is not up.
  returned: always
  type: list
  elements: str
"""

import json
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def ask(module):
    """The agent's status, or its error."""
    code, out, err = module.run_command([_agent.AGENT, "status", "--json"])
    if code:
        return None, err.strip()
    return json.loads(out), ""


def main():
    module = AnsibleModule(
        {
            "wait": {"type": "int", "default": 0},
            "expected": {"type": "list", "elements": "str", "default": []},
            "brief": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if module.check_mode and not os.path.exists("/run/wardmesh/wardmesh.sock"):
        module.exit_json(changed=False, unverified=[])
    deadline = time.time() + module.params["wait"]
    while True:
        status, problem = ask(module)
        down = [peer["name"] for peer in status["peers"] if not peer["reachable"]] if status else []
        missing = [name for name in down if name in module.params["expected"]]
        if (status and not missing) or time.time() >= deadline:
            break
        time.sleep(0.3)
    if status and module.params["brief"]:
        del status["peers"]
    if status is None:
        module.fail_json(msg="the agent does not answer: %s (remedy: journalctl -u wardmesh)" % problem)
    if status["problems"]:
        module.fail_json(msg="the agent reports: " + "; ".join(status["problems"]), status=status)
    if missing:
        module.fail_json(
            msg="no tunnel to %s (remedy: check that UDP 51871 passes between the hosts)"
            % ", ".join(missing),
            status=status,
            unverified=down,
        )
    module.exit_json(changed=False, status=status, unverified=down)


if __name__ == "__main__":
    main()
