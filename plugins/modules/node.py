# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Give birth to this host's key and report its public facts"""

from __future__ import annotations

DOCUMENTATION = r"""
module: node
short_description: Give birth to this host's key and report its public facts
version_added: 0.1.0
description:
  - The private key is made on the host, readable by root only, and never leaves it.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  hint:
    description: An address of this host that tells which device carries the fleet.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Key and addresses
  wardmesh.fleet.node:
    hint: 192.0.2.10
"""

RETURN = r"""
public_key:
  description: The public key, empty in check mode where there is none yet.
  returned: always
  type: str
key_generation:
  description: How often the key was replaced, plus one.
  returned: always
  type: int
labels:
  description: Labels from the host's own configuration and those that were added on it.
  returned: always
  type: dict
addresses:
  description: Addresses that belong to the fleet.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def main():
    module = AnsibleModule({"hint": {"type": "str", "default": ""}}, supports_check_mode=True)
    if not _agent.installed():
        if not module.check_mode:
            module.fail_json(
                msg="the agent is not installed (remedy: run the role wardmesh.fleet.agent first)"
            )
        module.exit_json(
            changed=True,
            public_key="",
            key_generation=1,
            addresses=[],
            labels={},
            diff={"before": "", "after": "key\n"},
        )
    words = ["node", "init", "--hint", module.params["hint"]] + (["--dry-run"] if module.check_mode else [])
    facts = _agent.call(module, words)
    module.exit_json(
        changed=facts["changed"],
        public_key=facts["public_key"] or "",
        key_generation=facts["key_generation"],
        addresses=facts["addresses"],
        labels=facts["labels"],
        diff={"before": "" if facts["changed"] else "key\n", "after": "key\n"},
    )


if __name__ == "__main__":
    main()
