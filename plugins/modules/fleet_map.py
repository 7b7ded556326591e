# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compile the registry and the fleet map"""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_map
short_description: Compile the registry and the fleet map
version_added: 0.1.0
description:
  - Runs once on the controller, in plain Python.
  - Members are the hosts of the group.
  - A key that a host did not report in this run comes from the registry, so a host that is down or outside the limit stays a member.
  - Removal is by O(remove) only.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  registry:
    description: The registry, a file to be committed beside the inventory.
    type: path
    required: true
  map:
    description: Where the compiled map is written.
    type: path
    required: true
  group:
    description: The group whose hosts are the members.
    type: str
    default: wardmesh
  cluster_name:
    description: Name of the cluster.
    type: str
    required: true
  cluster_id:
    description: Number of the cluster, 1 to 255.
    type: int
    default: 1
  remove:
    description: Members to remove for good.
    type: list
    elements: str
    default: []
  shrink_limit:
    description: Largest share of members, in percent, that one run may remove.
    type: int
    default: 20
  allow_shrink:
    description: Remove more than O(shrink_limit) allows.
    type: bool
    default: false
  rotate:
    description:
      - A step of a rotation of keys.
      - V(stage) and V(compromised) take the keys that O(rotate_hosts) registered as C(wardmesh_rotate_staged), from M(wardmesh.fleet.rotate).
      - V(stage) puts them beside the present keys, V(compromised) into their place at once.
      - V(retire) puts staged keys into the place of the present ones, if every member registered as C(wardmesh_rotate_report) that it uses them.
    type: str
    choices: [stage, retire, compromised]
  rotate_hosts:
    description: Whose keys O(rotate) is about.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Compile
  wardmesh.fleet.fleet_map:
    registry: /srv/inventory/wardmesh-registry.json
    map: /srv/inventory/wardmesh-fleet.json
    cluster_name: production
  run_once: true
"""

RETURN = r"""
digest:
  description: SHA-256 of the map file.
  returned: always
  type: str
generation:
  description: Generation of the map.
  returned: always
  type: int
members:
  description: Number of members.
  returned: always
  type: int
rotating:
  description: Members with a staged key that is not in use yet.
  returned: always
  type: list
  elements: str
predicted:
  description: In check mode, whether the map will change although a key is not born yet.
  returned: always
  type: bool
"""

# The work is done by the action plugin of the same name.
