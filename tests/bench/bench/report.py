# SPDX-License-Identifier: Apache-2.0
"""Tables of results, on the terminal and in docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
PAGE = REPO / "docs/benchmarks.md"


@dataclass
class Section:
    """A table. method: how it was measured; targets: (what, figure, wanted, holds)."""

    title: str
    method: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    targets: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def judge(self, what: str, value: float, limit: float, *, at_most: bool = True, unit: str = "") -> None:
        """Compare a figure with the one to reach."""
        sign = "≤" if at_most else "≥"
        good = value <= limit if at_most else value >= limit
        self.targets.append((what, f"{value:.3g}{unit}", f"{sign} {limit:g}{unit}", good))

    def markdown(self) -> str:
        """The section as a page shows it."""
        lines = [
            f"## {self.title}",
            "",
            self.method,
            "",
            _row(self.columns),
            _row(["---"] * len(self.columns)),
        ]
        lines += [_row(row) for row in self.rows]
        if self.targets:
            lines += ["", _row(["figure", "measured", "to reach", ""]), _row(["---"] * 4)]
            lines += [_row([w, v, t, "reached" if good else "**missed**"]) for w, v, t, good in self.targets]
        return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine() -> str:
    """What the figures were measured on, in words that name no host."""
    system = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _equals, value = line.partition("=")
        system[name] = value.strip('"')
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    kernel = ".".join(platform.release().split(".")[:2])
    return (
        f"{system.get('PRETTY_NAME', 'Linux')}, Linux {kernel}, {os.cpu_count()} cores, {memory} GiB, "
        f"Python {platform.python_version()}"
    )


def peak_memory() -> float:
    """MiB that this process had at most. getrusage's figure outlives exec and is the parent's, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def renew(sections: Iterable[Section]) -> None:
    """Put what some parts measured in the place of what the page says of them; a new section comes last."""
    head, *held = PAGE.read_text().rstrip("\n").split("\n\n## ")
    found = {text.partition("\n")[0]: text for text in held}
    for section in sections:
        found[section.title] = section.markdown().removeprefix("## ")
    PAGE.write_text("\n\n## ".join([head, *found.values()]) + "\n")


def write_page(sections: Iterable[Section]) -> None:
    """The whole page."""
    head = (
        "# Benchmarks\n\nWritten by `make bench`, a section by `make bench PART=…`; do not edit. Each figure "
        "compares things that were measured in turn, in the same run; absolute times are this machine's.\n\n"
        f"Machine: {machine()}.\n"
    )
    PAGE.write_text("\n\n".join([head.rstrip(), *(section.markdown() for section in sections)]) + "\n")


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]
