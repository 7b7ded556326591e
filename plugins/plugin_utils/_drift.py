# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who differs from what a rollout would make of the fleet, by the agent's own code. Private to the collection."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

AGENT = Path(__file__).parents[2] / "agent"


def _agent() -> None:
    if str(AGENT) not in sys.path:
        sys.path.insert(0, str(AGENT))


def policies(files: Mapping[str, str]) -> str:
    """The digest of a set of policy files, as hosts tell theirs."""
    _agent()
    from wardmesh.policy.files import policy_digest

    return policy_digest(files.items())


def compare(
    asked: Iterable[str],
    said: Mapping[str, Mapping[str, Any]],
    reference: Mapping[str, Mapping[str, str]],
    joining: Iterable[str],
) -> dict[str, Any]:
    """The task's result. said: what the module digest registered, of hosts that were reached; joining: hosts
    that no map has, so that the map will be another one for everybody."""
    _agent()
    from wardmesh.health.drift import Report, Verdict, judge, report_of
    from wardmesh.model.errors import WardmeshError

    news = ("it will change: %s will join" % ", ".join(sorted(joining)),) if list(joining) else ()
    verdicts = []
    for name in sorted(asked):
        answer = said.get(name)
        if answer is None or "report" not in answer:
            why = "the host was not reached" if answer is None else "the host gave no report"
            verdicts.append(judge(Report(name, problem=why), reference))
            continue
        wanted = {**reference}
        if answer.get("config"):
            wanted["config"] = {"digest": str(answer["config"])}
        try:
            found = judge(report_of(answer["report"], name), wanted)
        except WardmeshError as error:
            found = judge(Report(name, problem=error.why), wanted)
        if news and found.known:
            reasons = {**found.reasons, "map": (*found.reasons.get("map", ()), *news)}
            found = Verdict(name, known=True, reasons=reasons)
        verdicts.append(found)
    return result(verdicts)


def result(verdicts: Iterable[Any]) -> dict[str, Any]:
    """Rows, names and a table."""
    from wardmesh.health.drift import rows_of

    rows = rows_of(verdicts)
    lines = ["%-20s %-9s %-26s %s" % ("HOST", "STATE", "PARTS", "WHY")]
    for row in rows:
        state = "unknown" if not row["known"] else "DRIFTED" if row["drifted"] else "ok"
        lines.append(
            ("%-20s %-9s %-26s %s" % (row["host"], state, ",".join(row["parts"]), row["why"])).rstrip()
        )
    return {
        "changed": False,
        "hosts": rows,
        "drifted": [row["host"] for row in rows if row["drifted"]],
        "table": lines,
    }
