# SPDX-License-Identifier: Apache-2.0
"""Stands in for the agent in test_agent_role.py: judges configurations and has a key, below one folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(words: list[str]) -> int:
    """config validate FILE refuses what names a word; node init makes a key once."""
    if words[0] == "config":
        if "nonsense" in Path(words[2]).read_text():
            print(json.dumps({"error": {"what": "unknown key", "where": "nonsense", "remedy": "correct it"}}))
            return 1
        print(json.dumps({"valid": True}))
        return 0
    key = Path(os.environ["WARDMESH_TEST_ROOT"], "key")
    if key.with_name("full").exists():
        print(json.dumps({"error": {"what": "No space left"}}))
        return 1
    born = not key.exists()
    if born and "--dry-run" not in words:
        key.write_text("key")
    facts = {"public_key": "key" if key.exists() else None, "key_generation": 1}
    print(json.dumps({**facts, "changed": born, "addresses": ["10.0.0.1"], "labels": {}}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
