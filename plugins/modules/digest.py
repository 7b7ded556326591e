# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Report what a host enforces"""

from __future__ import annotations

DOCUMENTATION = r"""
module: digest
short_description: Report what a host enforces, and what its files say it should
version_added: 0.3.0
description:
  - Lets the agent's command line read the kernel and the files of the host, part by part. The agent need not run.
  - Changes nothing, so it does the same in check mode. It does not fail where the host has no agent; it says so.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  hint:
    description: An address that tells which device carries the fleet.
    type: str
    default: ''
  config:
    description: SHA-256 of the configuration that a rollout would write; it is given back.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: What does this host enforce?
  wardmesh.fleet.digest:
  register: wardmesh_digest
"""

RETURN = r"""
report:
  description: What C(wardmesh fleet digest -o json) prints, or C(problem), why there is nothing.
  returned: always
  type: dict
node:
  description: Public key, addresses and labels, where the agent is installed.
  returned: always
  type: dict
config:
  description: The digest of O(config).
  returned: always
  type: str
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent

USAGE = 2  # the exit status of an agent that does not know the verb


def ask(module, words):
    """A verb's JSON object, empty where there is none; the exit status and what was said beside."""
    code, out, err = module.run_command([_agent.AGENT, *words, "--json"], environ_update={"LC_ALL": "C"})
    try:
        return json.loads(out), code, err
    except ValueError:
        return {}, code, err


def look(module):
    """The report and the public facts."""
    if not _agent.installed():
        return {"format": 1, "problem": "the agent is not installed"}, {}
    found, code, err = ask(module, ["fleet", "digest"])
    if code:
        error = found.get("error", {})
        why = ": ".join(part for part in (error.get("what"), error.get("why")) if part) or err.strip()
        found = {"format": 1, "problem": "its agent is too old to tell" if code == USAGE else why}
    return found, ask(module, ["node", "init", "--dry-run", "--hint", module.params["hint"]])[0]


def main():
    module = AnsibleModule(
        {"hint": {"type": "str", "default": ""}, "config": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    report, node = look(module)
    module.exit_json(changed=False, report=report, node=node, config=module.params["config"])


if __name__ == "__main__":
    main()
