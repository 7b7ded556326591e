# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Label a host"""

from __future__ import annotations

DOCUMENTATION = r"""
module: labels
short_description: Label a host
version_added: 0.1.0
description:
  - Labels that the host itself keeps; the fleet learns them with the next run of C(wardmesh.fleet.site).
  - Where the inventory's C(wardmesh_labels) names the same key, the inventory decides.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  labels:
    description: Keys and values; with O(state=absent) only the keys count.
    type: dict
    required: true
  state:
    description: Add the labels, or take them away.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: A web server
  wardmesh.fleet.labels:
    labels:
      app: web
"""

RETURN = r"""
labels:
  description: Labels that the host keeps.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def lines(labels):
    """Labels as text for a diff."""
    return "".join("%s=%s\n" % pair for pair in sorted(labels.items()))


def main():
    module = AnsibleModule(
        {
            "labels": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    wanted = module.params["labels"]
    if not _agent.installed():
        if not module.check_mode:
            module.fail_json(msg="the agent is not installed (remedy: run wardmesh.fleet.site first)")
        module.exit_json(changed=True, labels=wanted)
    if not wanted:
        module.exit_json(changed=False, labels=wanted)
    if module.params["state"] == "present":
        words = ["labels", "add"] + ["%s=%s" % pair for pair in sorted(wanted.items())]
    else:
        words = ["labels", "remove", *sorted(wanted)]
    answer = _agent.call(module, words + (["--dry-run"] if module.check_mode else []))
    module.exit_json(
        changed=answer["changed"],
        labels=answer["labels"],
        diff={"before": lines(answer["before"]), "after": lines(answer["labels"])},
    )


if __name__ == "__main__":
    main()
