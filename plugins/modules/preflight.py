# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that is wrong with a host, at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Check a host and report what it has, changing nothing
version_added: 0.1.0
description:
  - Reports every problem of a host at once, which packages are missing, and what of wardmesh is already there.
  - What an option does not say is taken from the inventory, C(wardmesh_config) and the controller's clock.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  roles:
    description: Roles of this collection whose variables are judged, too, by their argument specs.
    type: list
    elements: str
    default: []
  verbose:
    description: Whether advice is shown as warnings.
    type: bool
    default: false
  addresses:
    description: Addresses that the host must have.
    type: list
    elements: str
    default: []
  hint:
    description: An address that tells which device carries the fleet.
    type: str
    default: ''
  port:
    description: UDP port of the tunnel; by default that of the configuration.
    type: int
    default: 51871
  now:
    description: The controller's clock, in seconds since 1970; 0 skips the comparison.
    type: float
    default: 0
  peers:
    description: Addresses of other hosts; a warning names those whose SSH port gives no answer. Names are left out.
    type: list
    elements: str
    default: []
  observer:
    description: Whether the host is to run the observer or the relay, which need libraries of their own.
    type: bool
    default: false
  store:
    description: Whether the host is to follow a store, which needs a library of its own.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Check
  wardmesh.fleet.preflight:
    roles: [agent, mesh]
"""

RETURN = r"""
errors:
  description: Problems that forbid an installation.
  returned: always
  type: list
  elements: str
advice:
  description: Problems that do not.
  returned: always
  type: list
  elements: str
packages:
  description: Packages to be installed.
  returned: always
  type: list
  elements: str
backend:
  description: The kind of WireGuard that the host will use.
  returned: always
  type: str
digests:
  description: SHA-256 of what is installed.
  returned: always
  type: dict
observing:
  description: Whether the role observability has anything to do here, services that are wanted or that are there.
  returned: unless variables are wrong
  type: bool
active:
  description: Whether the agent runs, with the files that are there, and is enabled.
  returned: always
  type: bool
silent:
  description: Addresses of O(peers) that gave no answer.
  returned: always
  type: list
  elements: str
node:
  description: Public key and addresses, where the agent is installed.
  returned: always
  type: dict
"""

# What the inventory says of a host is put together by the action plugin of the same name.

import hashlib
import json
import os
import platform
import shutil
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent, _checks

FILES = {
    "agent": "/usr/local/lib/wardmesh/current",
    "config": "/etc/wardmesh/config.yaml",
    "fleet": "/etc/wardmesh/fleet.json",
    "hubble.crt": "/etc/wardmesh/tls/hubble.crt",
    "wardmesh.service": "/etc/systemd/system/wardmesh.service",
    "wardmesh-boot.service": "/etc/systemd/system/wardmesh-boot.service",
    "wardmesh-wireguard@.service": "/etc/systemd/system/wardmesh-wireguard@.service",
    "wardmesh-observer.service": "/etc/systemd/system/wardmesh-observer.service",
    "wardmesh-health.service": "/etc/systemd/system/wardmesh-health.service",
    "wardmesh-relay.service": "/etc/systemd/system/wardmesh-relay.service",
    "wardmesh-ui.service": "/etc/systemd/system/wardmesh-ui.service",
}


def digest(path):
    """SHA-256 of a file, empty where there is none."""
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return ""


def needed_packages(family, observer, store, errors):
    """Names of missing packages, and the backend that the host will have."""
    names = _checks.FAMILIES[family]
    extra = (_checks.OBSERVER_MODULES if observer else ()) + (_checks.STORE_MODULES if store else ())
    modules = _checks.AGENT_MODULES + tuple(dict.fromkeys(extra))
    packages = [names[module] for module in _checks.missing_modules(modules)]
    if not shutil.which("tc") and not os.path.exists("/usr/sbin/tc"):
        packages.append(names["ip"])
    if not _checks.has_headers():
        packages.append(_checks.headers_package(family))
    if _checks.has_kernel_wireguard():
        return packages, "kernel"
    if not os.path.exists("/dev/net/tun"):
        errors.append(
            "the kernel has neither WireGuard nor /dev/net/tun (remedy: a kernel with wireguard or tun)"
        )
    if not shutil.which("wireguard-go"):
        packages.append(names["wireguard-go"])
    return packages, "userspace"


def main():
    module = AnsibleModule(
        {
            "roles": {"type": "list", "elements": "str", "default": []},
            "verbose": {"type": "bool", "default": False},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "hint": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 51871},
            "now": {"type": "float", "default": 0},
            "peers": {"type": "list", "elements": "str", "default": []},
            "observer": {"type": "bool", "default": False},
            "store": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    errors, warnings = [], []
    family, name = _checks.distribution()[:2]
    packages, backend = [], ""
    if not family:
        errors.append("%s is not supported (remedy: Debian 12+, Ubuntu 22.04+ or RHEL 9+)" % name)
    else:
        packages, backend = needed_packages(family, module.params["observer"], module.params["store"], errors)
    if os.geteuid() != 0:
        errors.append("not root (remedy: ansible_user: root, or become: true)")
    if sys.version_info < (3, 9):
        errors.append("Python %s is too old (remedy: 3.9 or newer)" % platform.python_version())
    if not os.path.isdir("/run/systemd/system"):
        errors.append("systemd does not run this host (remedy: a systemd distribution)")
    _checks.kernel_problems(errors, warnings)
    _checks.size_problems(warnings)
    _checks.clock_problem(module.params["now"], errors)
    _checks.address_problems(module.params["addresses"], errors)
    _checks.port_problem(module.params["port"], errors)
    _checks.second_port_advice(module.params["port"], warnings)
    silent = _checks.unreachable([peer for peer in module.params["peers"] if _checks.literal(peer)])
    if silent:
        module.warn(
            "no answer from %s: members must reach each other by UDP %d (remedy: routes, or the firewalls between)"
            % (", ".join(silent), module.params["port"])
        )
    node = {}
    if _agent.installed() and not packages:
        code, out, err = module.run_command(
            [_agent.AGENT, "node", "init", "--dry-run", "--json", "--hint", module.params["hint"]]
        )
        node = json.loads(out) if code == 0 else {}
        if code:
            errors.append("the agent: %s" % err.strip())
    active = module.run_command(["systemctl", "is-active", "--quiet", "wardmesh.service"])[0] == 0
    enabled = os.path.islink("/etc/systemd/system/multi-user.target.wants/wardmesh.service")
    result = {
        "errors": errors,
        "advice": warnings,
        "packages": sorted(packages),
        "backend": backend,
        "node": node,
        "silent": silent,
        "distribution": name,
        "active": active and enabled and not _agent.unfinished(),
        "digests": {key: digest(path) for key, path in FILES.items()},
    }
    if errors:
        module.fail_json(msg="; ".join(errors), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
