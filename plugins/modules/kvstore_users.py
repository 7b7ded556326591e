# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Give every member of the fleet a user in the fleet's etcd"""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvstore_users
short_description: Give every member of the fleet a user in the fleet's etcd
version_added: 0.1.0
description:
  - Each member of the fleet map gets a user without a password, known by the common name of its certificate, who may read
    the members' records and write its own.
  - Users of members that left the map are removed; other users stay.
  - Switches authentication on.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  endpoint:
    description: A server of the etcd, as https://HOST:PORT.
    type: str
    required: true
  ca:
    description: The CA of etcd's certificates, on the host.
    type: path
    required: true
  cert:
    description: A certificate with the common name root, on the host.
    type: path
    required: true
  key:
    description: Its key, on the host.
    type: path
    required: true
  map:
    description: The fleet map, on the host.
    type: path
    default: /etc/wardmesh/fleet.json
  also:
    description: Members that only the store knows.
    type: list
    elements: str
    default: []
  publishers:
    description: Members that run the store; they may write what other clusters read, too.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Users of the fleet
  wardmesh.fleet.kvstore_users:
    endpoint: https://10.20.0.1:2379
    ca: /etc/wardmesh/kvstore/ca.crt
    cert: /etc/wardmesh/kvstore/root.crt
    key: /etc/wardmesh/kvstore/root.key
"""

RETURN = r"""
changes:
  description: What was done, or would be.
  returned: always
  type: list
  elements: str
users:
  description: Number of members.
  returned: always
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent


def main():
    module = AnsibleModule(
        {
            "endpoint": {"type": "str", "required": True},
            "ca": {"type": "path", "required": True},
            "cert": {"type": "path", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},
            "map": {"type": "path", "default": "/etc/wardmesh/fleet.json"},
            "also": {"type": "list", "elements": "str", "default": []},
            "publishers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    words = ["kvstore", "users", module.params["map"]]
    for name in ("endpoint", "ca", "cert", "key"):
        words += ["--" + name, module.params[name]]
    for name in module.params["also"]:
        words += ["--also", name]
    for name in module.params["publishers"]:
        words += ["--publisher", name]
    answer = _agent.call(module, words + (["--dry-run"] if module.check_mode else []))
    after = "".join(line + "\n" for line in answer["changes"])
    module.exit_json(diff={"before": "", "after": after} if answer["changed"] else {}, **answer)


if __name__ == "__main__":
    main()
