# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Install or repair the agent"""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent
short_description: Install or repair the agent
version_added: 0.1.0
description:
  - Builds the agent on the controller, byte for byte the same from the same sources, and sends it, with its units and the configuration, to
    hosts that have something else; one call and one connection for each.
  - The new agent checks the configuration first; when it refuses it, nothing is changed. Then links are switched, the previous agent is kept,
    files are written, the host makes its key, and the service is enabled and started or restarted.
  - The private key is made on the host, readable by root only, and never leaves it.
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  state:
    description: The built one, or the one before. After V(rollback) the service wants a restart.
    type: str
    choices: [present, rollback]
    default: present
  config:
    description: Text of the configuration. Required if O(state=present).
    type: str
  hint:
    description: An address of this host that tells which device carries the fleet.
    type: str
    default: ''
  seen:
    description: The result of M(wardmesh.fleet.preflight). A host that is as it should be is not asked again.
    type: dict
    default: {}
  units:
    description: Text of each unit, by the action plugin; not for playbooks.
    type: dict
    default: {}
  bundle:
    description: The agent in base64, by the action plugin; not for playbooks.
    type: str
  digest:
    description: SHA-256 of the agent, by the action plugin; not for playbooks.
    type: str
    default: ''
  lacking:
    description: Whether packages were missing, so that a run that changes nothing cannot ask the agent; not for playbooks.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look
  wardmesh.fleet.preflight:
  register: found

- name: Install
  wardmesh.fleet.agent:
    config: |
      encryption:
        mode: strict
    seen: "{{ found }}"

- name: Back to the one before
  wardmesh.fleet.agent:
    state: rollback
"""

RETURN = r"""
digest:
  description: SHA-256 of the built agent.
  returned: when state is present
  type: str
parts:
  description: What was changed, of agent, config, units, folders, key and service.
  returned: when state is present
  type: list
  elements: str
renewed:
  description: >-
    Whether the agent, its configuration or its units are others than those that run, so that whatever else runs of it wants a restart.
  returned: when state is present
  type: bool
node:
  description:
    - Public key, empty in check mode where there is none yet, how often it was replaced plus one, addresses of the fleet, and labels from the
      host's own configuration and those that were added on it.
  returned: when the host was asked
  type: dict
"""

# What is the same on every host is said by the action plugin of the same name.

import base64
import hashlib
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent, _bundle

FOLDERS = (("/etc/wardmesh", 0o755), ("/etc/wardmesh/policies", 0o755), ("/var/lib/wardmesh", 0o700))
CONFIG = "/etc/wardmesh/config.yaml"
UNITS = "/etc/systemd/system"
SERVICE = "wardmesh.service"
UNBORN = {"changed": True, "public_key": "", "key_generation": 1, "addresses": [], "labels": {}}
UNKNOWN = {**UNBORN, "changed": False}


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


def draft(module, text):
    """A file of this text that goes with the module, unless it is moved."""
    handle, path = tempfile.mkstemp(dir=module.tmpdir, suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    return path


def write(module, path, text):
    """Replace a file in one step."""
    temporary = draft(module, text)
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)
    os.chown(path, 0, 0)


def received(module):
    """The agent's bytes, None where the host has them."""
    digest, sent = module.params["digest"], module.params["bundle"]
    if _bundle.is_current(digest):
        return None
    data = base64.b64decode(sent or "")
    if hashlib.sha256(data).hexdigest() != digest:
        what = "was altered in transit" if sent else "is another one than preflight saw"
        module.fail_json(msg="%s: the agent %s (remedy: run again)" % (_bundle.FOLDER, what))
    return data


def refusal(module, program):
    """What this agent has against the configuration, empty if nothing."""
    return _agent.ask(module, ["config", "validate", draft(module, module.params["config"])], program)[1]


def check_config(module, data):
    """Ask the agent that will run, and fail where it refuses; a new one is in its place afterwards, unlinked."""
    if module.check_mode and module.params["lacking"]:
        return None
    if data is None:
        path, problem = None, refusal(module, [_agent.AGENT])
    elif module.check_mode:
        path, problem = None, refusal(module, [_bundle.PYTHON, "-I", _bundle.temporary(module, data)])
    else:
        path = _bundle.stage(module, data, module.params["digest"])
        problem = refusal(module, [path])
        if problem:
            _bundle.clean()
    if problem:
        module.fail_json(msg=problem)
    return path


def birth(module):
    """Public facts of the host; its key is made unless it has one."""
    if module.check_mode and not _agent.installed():
        return UNBORN
    if module.check_mode and module.params["lacking"]:
        return UNKNOWN
    words = ["node", "init", "--hint", module.params["hint"]] + (["--dry-run"] if module.check_mode else [])
    facts = _agent.call(module, words)
    return {**{name: facts[name] for name in UNBORN}, "public_key": facts["public_key"] or ""}


def systemctl(module, *words):
    """A word that has to succeed."""
    code, out, err = module.run_command(["systemctl", *words])
    if code:
        module.fail_json(
            msg="systemctl %s: %s (remedy: journalctl -u wardmesh)" % (" ".join(words), (err or out).strip())
        )


def begin():
    """Note that the agent wants a restart, before anything makes it want one."""
    os.makedirs(os.path.dirname(_agent.UNFINISHED), mode=0o755, exist_ok=True)
    with open(_agent.UNFINISHED, "w", encoding="utf-8"):
        pass


def serve(module, renewed, units):
    """The agent runs, and the one that is installed; whether that is, or would be, a change.

    Enabling it enables wardmesh-boot.service, too (Also= in the unit).
    """
    enabled, active = (
        module.run_command(["systemctl", question, "--quiet", SERVICE])[0] == 0
        for question in ("is-enabled", "is-active")
    )
    if not module.check_mode:
        if units:
            systemctl(module, "daemon-reload")
        if not enabled:
            systemctl(module, "enable", SERVICE)
        if renewed or not active:
            systemctl(module, "restart", SERVICE)
        if _agent.unfinished():
            os.unlink(_agent.UNFINISHED)
    return renewed or not enabled or not active


def install(module):
    """Everything, in an order in which a failure leaves the last good state; the module's result."""
    wanted = {os.path.join(UNITS, name): text for name, text in module.params["units"].items()}
    wanted[CONFIG] = module.params["config"]
    present = {path: content(path) for path in wanted}
    different = sorted(path for path in wanted if present[path] != wanted[path])
    folders = [(path, mode) for path, mode in FOLDERS if not as_it_should_be(path, mode)]
    data = received(module)
    fresh = check_config(module, data) if data is not None or CONFIG in different else None
    cut_short = _agent.unfinished()
    if not module.check_mode:
        if fresh or folders or different:
            begin()
        if fresh:
            _bundle.switch(fresh)
        for path, mode in folders:
            make(path, mode)
        for path in different:
            write(module, path, wanted[path])
    node = birth(module)
    parts = {
        "agent": data is not None,
        "config": CONFIG in different,
        "units": any(path != CONFIG for path in different),
        "folders": bool(folders),
        "key": node["changed"],
    }
    renewed = parts["agent"] or parts["config"] or parts["units"] or parts["folders"]
    parts["service"] = serve(module, renewed or cut_short, parts["units"] or cut_short)
    texts = [(path, present[path], wanted[path]) for path in different]
    told = {"agent": module.params["digest"][:12], "key": "a key of its own", "service": "enabled, and anew"}
    texts += [(name, "", text + "\n") for name, text in told.items() if parts[name]]
    return {
        "changed": any(parts.values()),
        "digest": module.params["digest"],
        "parts": [name for name, changed in parts.items() if changed],
        "renewed": renewed or cut_short,
        "node": {name: fact for name, fact in node.items() if name != "changed"},
        "diff": [
            {"before": before, "after": after, "before_header": name, "after_header": name}
            for name, before, after in texts
        ],
    }


def main():
    module = AnsibleModule(
        {
            "state": {"type": "str", "choices": ["present", "rollback"], "default": "present"},
            "config": {"type": "str"},
            "hint": {"type": "str", "default": ""},
            "seen": {"type": "dict", "default": {}},
            "units": {"type": "dict", "default": {}},
            # No secret: but neither the journal nor the result is to have a megabyte of it.
            "bundle": {"type": "str", "no_log": True},
            "digest": {"type": "str", "default": ""},
            "lacking": {"type": "bool", "default": False},
        },
        required_if=[("state", "present", ["config"])],
        supports_check_mode=True,
    )
    if module.params["state"] == "rollback":
        _bundle.rollback(module)
        module.exit_json(changed=True)
    try:
        module.exit_json(**install(module))
    except OSError as error:
        module.fail_json(msg="%s (remedy: make room or correct the permissions, and run again)" % error)


if __name__ == "__main__":
    main()
