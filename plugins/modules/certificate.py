# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Request and install this host's certificate"""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Request and install this host's certificate
version_added: 0.1.0
description:
  - The private key is made on the host, readable by root only, and never leaves it.
  - A certificate is installed only when it is for this key and this member, valid now, and signed by a CA that comes with it.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  state:
    description: V(requested) makes the key and reports a request, V(present) installs a certificate.
    type: str
    choices: [requested, present]
    default: present
  certificate:
    description: The certificate in PEM; needed for O(state=present).
    type: str
    default: ''
  ca:
    description: Certificates of every CA that is to be believed, in PEM; needed for O(state=present).
    type: str
    default: ''
  predicted:
    description: In check mode, whether a certificate will come although it cannot be signed yet.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Key and request
  wardmesh.fleet.certificate:
    state: requested
  register: wardmesh_certificate_request
"""

RETURN = r"""
csr:
  description: The request in PEM, empty in check mode where there is no key yet.
  returned: when requested
  type: str
certificate:
  description: The installed certificate, empty where there is none.
  returned: when requested
  type: str
ca:
  description: The installed CAs, empty where there are none.
  returned: when requested
  type: str
ends:
  description: Until when the certificate is valid.
  returned: when present
  type: str
"""

import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent

KEY = "/var/lib/wardmesh/tls/hubble.key"


def requested(module, dry):
    """Facts of the request; a host without agent will make a key."""
    if not _agent.installed() and module.check_mode:
        facts = {"changed": True, "csr": "", "certificate": "", "ca": ""}
    else:
        facts = _agent.call(module, ["node", "certificate-request", *dry])
    facts["diff"] = {
        "before": "" if facts["changed"] else "key\n",
        "after": "key\n",
        "before_header": KEY,
        "after_header": KEY,
    }
    return facts


def present(module, dry):
    """Install from a folder that only root reads."""
    folder = tempfile.mkdtemp(dir=module.tmpdir)
    try:
        paths = []
        for name in ("certificate", "ca"):
            paths.append(os.path.join(folder, name))
            with open(paths[-1], "w") as stream:
                stream.write(module.params[name])
        facts = _agent.call(module, ["node", "certificate-install", *paths, *dry])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts["diff"] = {"before": "", "after": "%s until %s\n" % (", ".join(facts["names"]), facts["ends"])}
    return facts


def main():
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        {
            "state": {"type": "str", "choices": ["requested", "present"], "default": "present"},
            "certificate": text,
            "ca": text,
            "predicted": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    dry = ["--dry-run"] if module.check_mode else []
    if module.params["state"] == "requested":
        module.exit_json(**requested(module, dry))
    if module.check_mode and module.params["predicted"]:
        module.exit_json(changed=True, ends="")
    module.exit_json(**present(module, dry))


if __name__ == "__main__":
    main()
