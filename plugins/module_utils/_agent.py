# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the agent's command line with JSON. Private to the collection."""

from __future__ import annotations

import json
import os

AGENT = "/usr/local/bin/wardmesh"


def installed():
    """Is the agent on this host?"""
    return os.path.exists(AGENT)


def call(module, words, differs=()):
    """Run a verb; its JSON object. The agent's error becomes the module's failure.

    differs: exit statuses that are an answer all the same.
    """
    code, out, err = module.run_command([AGENT, *words, "--json"], environ_update={"LC_ALL": "C"})
    try:
        answer = json.loads(out)
    except ValueError:
        answer = {}
    if (code and not (answer and code in differs)) or "error" in answer:
        error = answer.get("error", {})
        message = ": ".join(
            part for part in (error.get("where"), error.get("what"), error.get("why")) if part
        )
        if error.get("remedy"):
            message += " (remedy: %s)" % error["remedy"]
        module.fail_json(msg=message or err.strip() or "the agent gave no answer", verb=words)
    return answer
