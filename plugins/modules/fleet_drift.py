# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name the hosts that differ from what a rollout would make of them"""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_drift
short_description: Name the hosts that differ from what a rollout would make of them
version_added: 0.3.0
description:
  - Compares what M(wardmesh.fleet.digest) registered for each host with what the hosts' own files say, and with what
    the controller would roll out now - the fleet map compiled from registry and inventory, the agent, the
    configuration, the policies.
  - Hosts that were not reached are listed as unknown, and count as drifted.
  - Needs no connection; use it with C(run_once). Writes nothing.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  registry:
    description: The registry on the controller.
    type: path
    required: true
  group:
    description: The inventory group that is the fleet.
    type: str
    default: wardmesh
  cluster_name:
    description: Name of the cluster.
    type: str
    required: true
  cluster_id:
    description: Number of the cluster.
    type: int
    default: 1
  policies:
    description: Policy files, or folders of them, that all hosts should have. Without any that exist, policies are
      only compared with the files of each host.
    type: list
    elements: path
    default: []
  variable:
    description: Where M(wardmesh.fleet.digest) was registered.
    type: str
    default: wardmesh_digest
"""

EXAMPLES = r"""
- name: Who drifted?
  wardmesh.fleet.fleet_drift:
    registry: "{{ inventory_dir }}/wardmesh-registry.json"
    cluster_name: production
  run_once: true
  register: wardmesh_fleet_drift
"""

RETURN = r"""
drifted:
  description: Hosts that differ, those that were not reached among them.
  returned: always
  type: list
  elements: str
hosts:
  description: For each host whether it is known, whether it drifted, in which parts, and why.
  returned: always
  type: list
  elements: dict
table:
  description: The same as lines for people.
  returned: always
  type: list
  elements: str
"""
