# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Set the mode of encryption that is in force"""

from __future__ import annotations

DOCUMENTATION = r"""
module: encryption_mode
short_description: Set the mode of encryption that is in force
version_added: 0.1.0
description:
  - The barrier of a rollout.
  - Strict seals every member whose tunnel is up; from then on only the tunnel carries traffic to it.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  mode:
    description: The mode.
    type: str
    choices: [prefer, strict]
    required: true
  seal_all:
    description: Seal members too whose tunnel is not up.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: From now on only the tunnel
  wardmesh.fleet.encryption_mode:
    mode: strict
"""

RETURN = r"""
mode:
  description: The mode in force.
  returned: always
  type: str
sealed:
  description: Members that are reached through the tunnel or not at all.
  returned: always
  type: list
  elements: str
unverified:
  description: Members whose tunnel is not up.
  returned: always
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def main():
    module = AnsibleModule(
        {
            "mode": {"type": "str", "choices": ["prefer", "strict"], "required": True},
            "seal_all": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    mode = module.params["mode"]
    if module.check_mode and not os.path.exists("/run/wardmesh/wardmesh.sock"):
        module.exit_json(changed=mode == "strict", mode=mode, sealed=[], unverified=[])
    words = ["encryption", "mode", mode] + (["--all"] if module.params["seal_all"] else [])
    answer = _agent.call(module, words + (["--dry-run"] if module.check_mode else []))
    module.exit_json(
        diff={"before": "", "after": "mode %s\n" % answer["mode"]} if answer["changed"] else {}, **answer
    )


if __name__ == "__main__":
    main()
