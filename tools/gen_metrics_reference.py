# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/metrics.md from the table of metrics; --check says whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from generated import REPO, write_or_check

HEADER = """# Metrics

Made by `tools/gen_metrics_reference.py` from `agent/wardmesh/observe/metrics_model.py`; do not edit.

`cilium_` and `hubble_` are the names of Cilium and of the seed documents, where they mean the same here;
`wardmesh_` is our own. `wardmesh metrics list` prints those of a host. How to collect them:
[monitoring.md](../how-to/monitoring.md).

At most `prometheus.peersMax` peers (1000) have series of their own, those that are not up first; sums count
everybody. A port gets a series of its own once it is busy, 50 ports at most. So a scrape stays below 5 MiB
in a fleet of any size.
"""


def _code(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def table(source: str) -> str:
    """The metrics of one source."""
    sys.path.insert(0, str(REPO / "agent"))
    from wardmesh.observe.metrics_model import METRICS

    rows = [
        f"| `{metric.name}` | {metric.kind} | {_code(metric.labels)} | {metric.help} |"
        for metric in METRICS
        if metric.source == source
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])


def render() -> str:
    """The whole page."""
    sys.path.insert(0, str(REPO / "agent"))
    from wardmesh.observe.metrics_model import LEFT_OUT, METRICS

    parts = [HEADER.rstrip()]
    for source in dict.fromkeys(metric.source for metric in METRICS):
        parts += [f"## From {source}", table(source)]
    parts += [
        "## Names of Cilium that are left out",
        "\n".join(
            [
                "| metrics | why |",
                "|---|---|",
                *(f"| {_code(names.split(', '))} | {why} |" for names, why in LEFT_OUT),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check({REPO / "docs/reference/metrics.md": render()}, __doc__))
