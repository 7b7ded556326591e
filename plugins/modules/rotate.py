# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Do a host's part of a rotation of keys"""

from __future__ import annotations

DOCUMENTATION = r"""
module: rotate
short_description: Do a host's part of a rotation of keys
version_added: 0.1.0
description:
  - Makes the next key, sends through the second tunnel, or says where the host stands.
  - Private keys are made on the host and never leave it.
  - The steps of the whole fleet are in C(playbooks/rotate_keys.yml).
author:
  - wardmesh contributors (@wardmesh)
extends_documentation_fragment:
  - wardmesh.fleet._attributes
options:
  phase:
    description:
      - V(status) changes nothing.
      - V(stage) makes the next key where there is none.
      - V(activate) sends through the second tunnel to every member to which it is up.
    type: str
    choices: [status, stage, activate]
    default: status
  until:
    description:
      - What to wait for.
      - V(up) is every second tunnel up.
      - V(sending) is all traffic with members that have one in the second tunnel.
      - V(settled) is that no rotation is at its end, V(ended) that the second tunnel is gone.
    type: str
    choices: ['', up, sending, settled, ended]
    default: ''
  wait:
    description: Seconds to wait for O(until).
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Send through the second tunnel
  wardmesh.fleet.rotate:
    phase: activate
    until: sending
"""

RETURN = r"""
next_public_key:
  description: The next public key, empty in check mode where there is none yet.
  returned: with O(phase=stage)
  type: str
rotation:
  description: What C(wardmesh encryption rotate --json) prints.
  returned: without O(phase=stage), when the agent answers
  type: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wardmesh.fleet.plugins.module_utils import _agent

VERB = ["encryption", "rotate"]


def missing(until, state):
    """What is still to come, in words; nothing where it came."""
    pairs, rest = ", ".join(state["pairs"]), sorted(set(state["pairs"]) - set(state["sending"]))
    if until == "up" and state["waiting"]:
        return "the second tunnel is not up to %s" % ", ".join(state["waiting"])
    if until == "sending" and rest:
        return "traffic does not go through the second tunnel to %s" % ", ".join(rest)
    if until == "settled" and state["phase"] == "retiring":
        return "the last rotation has not ended with %s" % pairs
    if until == "ended" and state["phase"] != "none":
        return "the rotation has not ended with %s" % pairs
    return ""


def stage(module):
    answer = _agent.call(module, VERB + ["--phase", "stage"] + (["--dry-run"] if module.check_mode else []))
    module.exit_json(
        changed=answer["changed"],
        next_public_key=answer["next_public_key"],
        diff={"before": "" if answer["changed"] else "next key\n", "after": "next key\n"},
    )


def activate(module, state):
    if module.check_mode and state["phase"] == "none":  # the map that stages the keys is only predicted
        return True
    words = VERB + ["--phase", "activate"] + (["--dry-run"] if module.check_mode else [])
    return _agent.call(module, words)["changed"]


def main():
    module = AnsibleModule(
        {
            "phase": {"type": "str", "choices": ["status", "stage", "activate"], "default": "status"},
            "until": {"type": "str", "choices": ["", "up", "sending", "settled", "ended"], "default": ""},
            "wait": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    if not _agent.installed():
        module.fail_json(msg="the agent is not installed (remedy: run site.yml first)")
    if module.params["phase"] == "stage":
        stage(module)
    state = _agent.call(module, VERB)
    changed = module.params["phase"] == "activate" and activate(module, state)
    until, deadline = module.params["until"], time.time() + module.params["wait"]
    while not module.check_mode:
        state = _agent.call(module, VERB)
        rest = missing(until, state)
        if not rest:
            break
        if time.time() >= deadline:
            module.fail_json(
                msg="%s, after %d s (remedy: see that UDP %s passes between the hosts and that their agents run; "
                "the fleet works on as it is, run the playbook again)"
                % (rest, module.params["wait"], state["listenPort"]),
                rotation=state,
            )
        time.sleep(0.5)
    module.exit_json(changed=changed, rotation=state)


if __name__ == "__main__":
    main()
