# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Install the agent as one file"""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_bundle
short_description: Install the agent as one file
version_added: 0.1.0
description:
  - Builds the agent on the controller, byte for byte the same from the same sources, sends it when the host has another one, and switches a link.
  - The previous one is kept.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  state:
    description: The built one, or the one before.
    type: str
    choices: [present, rollback]
    default: present
  current:
    description: SHA-256 of the agent that the host has.
    type: str
    default: ''
  source:
    description: Where the action plugin put the file; not for playbooks.
    type: path
  digest:
    description: SHA-256 of that file; not for playbooks.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Install
  wardmesh.fleet.agent_bundle:
"""

RETURN = r"""
digest:
  description: SHA-256 of the built agent.
  returned: when state is present
  type: str
"""

# The work is done by the action plugin of the same name.

import hashlib
import os

from ansible.module_utils.basic import AnsibleModule

FOLDER = "/usr/local/lib/wardmesh"
LINKS = ("/usr/local/bin/wardmesh", "/usr/local/bin/wardmeshd")
PYTHON = "/usr/bin/python3"
# The agent says what that is good for, in wardmesh/host/compiled.py.
KEEP = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from wardmesh.host.compiled import keep_compiled
keep_compiled(pathlib.Path(sys.argv[1]))
"""


def switch(link, target):
    """Point a link somewhere else in one step."""
    fresh = link + ".new"
    if os.path.lexists(fresh):
        os.unlink(fresh)
    os.symlink(target, fresh)
    os.rename(fresh, link)


def install(module, source, digest):
    """Move the file in, switch the links, keep the previous one and no older."""
    name = "wardmesh-%s.pyz" % digest[:12]
    with open(source, "rb") as stream:
        if hashlib.sha256(stream.read()).hexdigest() != digest:
            module.fail_json(msg="%s: the agent was altered in transit (remedy: run again)" % source)
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    module.atomic_move(source, os.path.join(FOLDER, name))
    os.chmod(os.path.join(FOLDER, name), 0o755)  # noqa: S103 - a program, run by everybody
    # Where it cannot be compiled now, the agent compiles at each start.
    module.run_command([PYTHON, "-I", "-c", KEEP, os.path.join(FOLDER, name)])
    current = os.path.join(FOLDER, "current")
    old = os.readlink(current) if os.path.islink(current) else None
    if old and old != name:
        switch(os.path.join(FOLDER, "previous"), old)
    switch(current, name)
    for link in LINKS:
        switch(link, current)
    keep = {kept.split(".")[0] for kept in (name, old) if kept}
    for found in os.listdir(FOLDER):
        if found.endswith((".pyz", ".zip")) and found.split(".")[0] not in keep:
            os.unlink(os.path.join(FOLDER, found))


def rollback(module):
    """Swap current and previous."""
    current, previous = (os.path.join(FOLDER, name) for name in ("current", "previous"))
    if not os.path.islink(previous):
        module.fail_json(msg="no previous agent on this host (remedy: install a version instead)")
    old, new = os.readlink(current), os.readlink(previous)
    if not module.check_mode:
        switch(current, new)
        switch(previous, old)
    module.exit_json(changed=True)


def main():
    module = AnsibleModule(
        {
            "state": {"type": "str", "choices": ["present", "rollback"], "default": "present"},
            "current": {"type": "str", "default": ""},
            "source": {"type": "path"},
            "digest": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if module.params["state"] == "rollback":
        rollback(module)
    current = os.path.join(FOLDER, "current")
    digest = module.params["digest"]
    if os.path.exists(current) and os.path.realpath(current).endswith("-%s.pyz" % digest[:12]):
        module.exit_json(changed=False, digest=digest)
    if not module.check_mode:
        install(module, module.params["source"], digest)
    module.exit_json(changed=True, digest=digest, diff={"before": "", "after": "agent %s\n" % digest[:12]})


if __name__ == "__main__":
    main()
