# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Remove what the agent put into the kernel"""

from __future__ import annotations

DOCUMENTATION = r"""
module: cleanup
short_description: Remove what the agent put into the kernel
version_added: 0.1.0
description:
  - Stops the agent and removes interface, routes, rules, filters and maps.
  - Runs as a unit of its own, so a lost connection does not stop it half-way.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options: {}
"""

EXAMPLES = r"""
- name: Leave nothing in the kernel
  wardmesh.fleet.cleanup:
"""

RETURN = r"""
removed:
  description: What was removed, or would be.
  returned: when the agent is installed
  type: list
  elements: str
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def main():
    module = AnsibleModule({}, supports_check_mode=True)
    if not _agent.installed():
        module.exit_json(changed=False, removed=[])
    if module.check_mode:
        module.exit_json(changed=True, removed=[])
    script = "systemctl stop wardmesh.service; exec %s cleanup --json" % _agent.AGENT
    code, out, err = module.run_command(
        [
            "systemd-run",
            "--quiet",
            "--collect",
            "--wait",
            "--pipe",
            "--unit=wardmesh-cleanup",
            "sh",
            "-c",
            script,
        ]
    )
    try:
        answer = json.loads(out)
    except ValueError:
        answer = {}
    if code or "removed" not in answer:
        module.fail_json(msg="cleanup failed: %s %s" % (out.strip(), err.strip()))
    module.exit_json(
        changed=True,
        removed=answer["removed"],
        diff={"before": "\n".join(answer["removed"]) + "\n", "after": ""},
    )


if __name__ == "__main__":
    main()
