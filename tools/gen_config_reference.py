# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/config.md from the table of keys; --check says whether it is up to date."""

from __future__ import annotations

import json
import sys

from generated import REPO, write_or_check

HEADER = """# /etc/wardmesh/config.yaml

Made by `tools/gen_config_reference.py` from the table in `agent/wardmesh/model/schema.py`; do not edit.

Keys nest (`encryption: {mode: strict}`) or stand flat (`encryption.mode: strict`). An unknown key is an
error that names the nearest known one. `wardmesh config validate FILE` checks a file, `wardmesh config get`
prints what is in force. From a playbook, set them in `wardmesh_config`.
"""


def table(active: bool) -> str:
    """The keys that this version acts on, or those that it does not."""
    sys.path.insert(0, str(REPO / "agent"))
    from wardmesh.model.schema import KEYS

    rows = [
        f"| `{key.path}` | {key.kind}{': ' + ', '.join(key.choices) if key.choices else ''} "
        f"| {'' if key.default is None else f'`{json.dumps(key.default)}`'} | {key.text} |"
        for key in KEYS
        if key.active is active
    ]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def render() -> str:
    """The whole page."""
    parts = [
        HEADER.rstrip(),
        "## Keys in effect",
        table(True),
        "## Keys that are accepted and not active in this version",
        "`wardmesh status` names those that a file sets.",
        table(False),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check({REPO / "docs/reference/config.md": render()}, __doc__))
