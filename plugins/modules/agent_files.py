# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write the agent's configuration and its units"""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_files
short_description: Write the agent's configuration and its units
version_added: 0.1.0
description:
  - Makes the folders, writes the configuration and the units, all in one go.
  - The installed agent checks the configuration first; when it refuses it, nothing is written.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  config:
    description: Text of the configuration.
    type: str
    required: true
  units:
    description: Text of each systemd unit by its name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Write them
  wardmesh.fleet.agent_files:
    config: |
      encryption:
        mode: strict
    units:
      wardmesh.service: "{{ lookup('ansible.builtin.file', 'wardmesh.service', rstrip=false) }}"
"""

RETURN = r"""
config_changed:
  description: Is the configuration another one?
  returned: always
  type: bool
units_changed:
  description: Is any unit another one?
  returned: always
  type: bool
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent

FOLDERS = (("/etc/wardmesh", 0o755), ("/etc/wardmesh/policies", 0o755), ("/var/lib/wardmesh", 0o700))
CONFIG = "/etc/wardmesh/config.yaml"
UNITS = "/etc/systemd/system"


def content(path):
    """The text of a file, empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def as_it_should_be(path, mode):
    """Is this folder there with its owner and mode?"""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, mode)


def make(path, mode):
    """The folder with its owner and mode."""
    os.makedirs(path, exist_ok=True)
    os.chown(path, 0, 0)
    os.chmod(path, mode)


def write(module, path, text):
    """Replace a file in one step."""
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)
    os.chown(path, 0, 0)


def check(module, text):
    """The installed agent's word on a configuration; fails where it refuses it."""
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir, suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    try:
        _agent.call(module, ["config", "validate", temporary])
    finally:
        os.unlink(temporary)


def main():
    module = AnsibleModule(
        {"config": {"type": "str", "required": True}, "units": {"type": "dict", "required": True}},
        supports_check_mode=True,
    )
    wanted = {os.path.join(UNITS, name): text for name, text in module.params["units"].items()}
    wanted[CONFIG] = module.params["config"]
    present = {path: content(path) for path in wanted}
    different = sorted(path for path in wanted if present[path] != wanted[path])
    folders = [(path, mode) for path, mode in FOLDERS if not as_it_should_be(path, mode)]
    if CONFIG in different and _agent.installed():
        check(module, wanted[CONFIG])
    if not module.check_mode:
        for path, mode in folders:
            make(path, mode)
        for path in different:
            write(module, path, wanted[path])
    module.exit_json(
        changed=bool(different or folders),
        config_changed=CONFIG in different,
        units_changed=any(path != CONFIG for path in different),
        diff=[
            {"before": present[path], "after": wanted[path], "before_header": path, "after_header": path}
            for path in different
        ],
    )


if __name__ == "__main__":
    main()
