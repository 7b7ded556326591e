# SPDX-License-Identifier: Apache-2.0
"""Stands in for the agent's command line where only the playbook's logic is tested (test_rotate_playbook.py).

One host's state lies in $WARDMESH_TEST_HOST.json beside the inventory; tunnels are up at once, and gone at
once. A file $WARDMESH_TEST_HOST.down means that the agent does not run. What real agents do is proved in
tests/netns and the lab.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from pathlib import Path

from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.wireguard.rotation import phase_of, rotating_with

FOLDER, NAME = Path(os.environ["WARDMESH_TEST_FOLDER"]), os.environ["WARDMESH_TEST_HOST"]
STATE = FOLDER / f"{NAME}.json"


def answer(document):
    print(json.dumps(document))
    return 0


def main(words):
    dry = "--dry-run" in words
    if (FOLDER / f"{NAME}.down").exists():
        answer({"error": {"what": "the agent does not run"}})
        return 1
    state = json.loads(STATE.read_text())
    if words[:2] == ["fleet", "apply"]:
        result = apply(state, Path(words[2]).read_bytes(), dry)
    elif words[0] == "status":
        result = {"problems": [], "peers": []}
    elif "stage" in words:
        result = stage(state, dry)
    else:
        result = rotate(state, "activate" in words, dry)
    if not dry:
        STATE.write_text(json.dumps(state))
    return answer(result)


def view(state):
    fleet = parse_fleet_map((FOLDER / state["map"]).read_bytes(), "map") if state["map"] else None
    if fleet is None:
        return None, []
    own = next(member for member in fleet.members if member.name == NAME)
    return own, [member for member in fleet.members if member is not own]


def apply(state, data, dry):
    digest = hashlib.sha256(data).hexdigest()
    changed = state["digest"] != digest
    if changed and not dry:
        (FOLDER / f"{NAME}.map").write_bytes(data)
        state.update(map=f"{NAME}.map", digest=digest)
        own, others = view(state)
        if own.key == state["staged"]:
            state.update(key=state["staged"], staged="")
        assert own.key == state["key"], "a key that this host does not hold"
        assert own.next_key in ("", state["staged"])
        state["active"] = state["active"] and bool(rotating_with(own, others))
    return {"changed": changed}


def stage(state, dry):
    created = not state["staged"]
    if created and not dry:
        state["staged"] = base64.b64encode(os.urandom(32)).decode()
    return {"changed": created, "next_public_key": state["staged"], "key_generation": 2}


def rotate(state, activate, dry):
    own, others = view(state)
    pairs = sorted(rotating_with(own, others))
    changed = activate and not state["active"]
    if activate and not dry:
        assert pairs, "no keys rotate on this host"
        state["active"] = True
        with open(FOLDER / "order", "a", encoding="utf-8") as log:
            log.write(f"{NAME}\n" if changed else "")
    return {
        "changed": changed,
        "phase": phase_of(pairs, pairs, state["active"]),
        "pairs": pairs,
        "sending": pairs if state["active"] else [],
        "waiting": [],
        "listenPort": 51872 if pairs else 0,
        "fleet": state["digest"],
        "staged": state["staged"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
