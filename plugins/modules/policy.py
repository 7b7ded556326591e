# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put policies in force on a host"""

from __future__ import annotations

DOCUMENTATION = r"""
module: policy
short_description: Put policies in force on a host
version_added: 0.1.0
description:
  - Checks the whole set on the controller, then lets the agent put it in force.
  - With O(confirm_within) the set is on trial. The host returns to the set before, unless the module is run
    again with O(state=confirmed) over a fresh connection in time.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  src:
    description: Policy files, or folders of them, on the controller.
    type: list
    elements: path
    default: []
  state:
    description:
      - V(present) adds the files to those on the host, V(replaced) makes them the whole set, which must not be
        empty, V(absent) removes O(names), V(confirmed) keeps what is on trial.
    type: str
    choices: [present, replaced, absent, confirmed]
    default: present
  names:
    description: Policies to remove, by name or file.
    type: list
    elements: str
    default: []
  confirm_within:
    description: Seconds that the set is on trial; V(0) is no trial.
    type: int
    default: 0
  tests:
    description:
      - Files of assertions on the controller. Unless all of them hold for the set, no host is touched.
    type: list
    elements: path
    default: []
  fleet_map:
    description: The fleet map on the controller, which says who is who; needed for O(tests).
    type: path
  files:
    description: Names and texts of the files; filled in on the controller.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: The whole set, on trial for a minute
  wardmesh.fleet.policy:
    src: [policies]
    tests: [policy-tests.yaml]
    fleet_map: wardmesh-fleet.json
    state: replaced
    confirm_within: 60

- name: Use a fresh connection
  ansible.builtin.meta: reset_connection

- name: Keep it
  wardmesh.fleet.policy:
    state: confirmed
"""

RETURN = r"""
changes:
  description: Pairs and ports of this host that open or close.
  returned: when policies were applied
  type: list
  elements: dict
pending:
  description: Is the set on trial?
  returned: when policies were applied
  type: bool
controller:
  description: What the new set says about this connection of the controller.
  returned: in check mode, where the connection is SSH
  type: str
"""

import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def write(folder, files):
    """The files below a folder that only root reads."""
    for name, text in files.items():
        with open(os.path.join(folder, os.path.basename(name)), "w") as stream:
            stream.write(text)


def controller_verdict(module, folder):
    """What the files say about the SSH connection that runs this module; empty where there is none."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        return ""
    own = _agent.call(module, ["status"]).get("self", "")
    if not own:
        return ""
    flow = ["--from", words[0], "--to", own, "--port", words[3] + "/tcp"]
    trace = ["policy", "trace", folder, "--fleet", "/etc/wardmesh/fleet.json"]
    return _agent.call(module, trace + flow).get("ingress", "")


def apply(module):
    """Apply the files from a temporary folder."""
    folder = tempfile.mkdtemp(dir=module.tmpdir)
    try:
        write(folder, module.params["files"])
        words = ["policy", "apply", folder]
        if module.params["state"] == "replaced":
            words.append("--replace")
        if module.check_mode:
            answer = _agent.call(module, [*words, "--dry-run"])
            answer["controller"] = controller_verdict(module, folder)
            return answer
        if module.params["confirm_within"]:
            words += ["--confirm-within", str(module.params["confirm_within"])]
        return _agent.call(module, words)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    module = AnsibleModule(
        {
            "src": {"type": "list", "elements": "path", "default": []},
            "state": {
                "type": "str",
                "choices": ["present", "replaced", "absent", "confirmed"],
                "default": "present",
            },
            "names": {"type": "list", "elements": "str", "default": []},
            "confirm_within": {"type": "int", "default": 0},
            "tests": {"type": "list", "elements": "path", "default": []},
            "fleet_map": {"type": "path"},
            "files": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    state = module.params["state"]
    if not _agent.installed():
        if not module.check_mode:
            module.fail_json(msg="the agent is not installed (remedy: run wardmesh.fleet.site first)")
        module.exit_json(changed=True)
    if state == "confirmed":  # the change was that of the trial
        if not module.check_mode:
            _agent.call(module, ["policy", "confirm"])
        module.exit_json(changed=False)
    if state == "absent":
        words = ["policy", "delete", *module.params["names"]]
        module.exit_json(**_agent.call(module, words + (["--dry-run"] if module.check_mode else [])))
    module.exit_json(**apply(module))


if __name__ == "__main__":
    main()
