# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the agent's command line with JSON. Private to the collection."""

from __future__ import annotations

import json
import os

AGENT = "/usr/local/bin/wardmesh"
# There from an installation's first change until the agent runs with the last one.
UNFINISHED = "/usr/local/lib/wardmesh/unfinished"


def installed():
    """Is the agent on this host?"""
    return os.path.exists(AGENT)


def unfinished():
    """Was an installation cut short, so that the agent wants a restart although its files are right?"""
    return os.path.exists(UNFINISHED)


def ask(module, words, program=(AGENT,), differs=()):
    """Run a verb; its JSON object, and what went wrong, empty if nothing did.

    program: how the agent is run. differs: exit statuses that are an answer all the same.
    """
    code, out, err = module.run_command([*program, *words, "--json"], environ_update={"LC_ALL": "C"})
    try:
        answer = json.loads(out)
    except ValueError:
        answer = {}
    if not ((code and not (answer and code in differs)) or "error" in answer):
        return answer, ""
    error = answer.get("error", {})
    message = ": ".join(part for part in (error.get("where"), error.get("what"), error.get("why")) if part)
    if error.get("remedy"):
        message += " (remedy: %s)" % error["remedy"]
    return answer, message or err.strip() or "the agent gave no answer"


def call(module, words, differs=()):
    """Run a verb; its JSON object. The agent's error becomes the module's failure."""
    answer, problem = ask(module, words, differs=differs)
    if problem:
        module.fail_json(msg=problem, verb=words)
    return answer
