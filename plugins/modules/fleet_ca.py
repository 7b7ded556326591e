# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sign the certificates of the fleet on the controller"""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_ca
short_description: Sign the certificates of the fleet on the controller
version_added: 0.1.0
description:
  - Runs once on the controller, in plain Python, and makes the CA where there is none.
  - A request is signed only when it is signed by its own key and is for the host that sent it. Names and addresses come from the fleet map,
    never from the request.
  - A host gets another certificate when less than a third of the lifetime is left, or when its key, names, addresses or CA changed.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  dir:
    description:
      - Folder of the CA, C(ca.crt) and C(ca.key), open to its owner alone. Certificates in its folder C(trusted) are believed, too.
      - C(ca.key) may be encrypted by ansible-vault.
    type: path
    required: true
  map:
    description: The fleet map on the controller.
    type: path
    required: true
  external:
    description: The CA's key is elsewhere. Requests are left in the folder C(requests), certificates are awaited in C(signed).
    type: bool
    default: false
  days:
    description: Lifetime of certificates.
    type: int
    default: 180
  variable:
    description: Name of the variable in which each host's request was registered.
    type: str
    default: wardmesh_certificate_request
  client:
    description: Make a key and a certificate for this client, in the folder C(clients), instead of the hosts' certificates.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Sign
  wardmesh.fleet.fleet_ca:
    dir: /srv/inventory/wardmesh-ca
    map: /srv/inventory/wardmesh-fleet.json
  run_once: true
"""

RETURN = r"""
certificates:
  description: Each host's certificate, the installed one where it needs no other.
  returned: always
  type: dict
ca:
  description: Every CA that is to be believed.
  returned: always
  type: str
pending:
  description: Hosts whose certificate or CAs are to be installed.
  returned: always
  type: list
  elements: str
predicted:
  description: Those of them whose certificate is not known yet, in check mode.
  returned: always
  type: list
  elements: str
"""

# The work is done by the action plugin of the same name.
