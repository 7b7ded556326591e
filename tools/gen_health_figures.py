# SPDX-License-Identifier: Apache-2.0
"""Write the table of loads in docs/how-to/health.md from the schedule; --check says whether it is stale.

Every host of a simulated fleet follows its schedule; counted is what one host sends and gets.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict

from generated import REPO, write_or_check

PAGE = REPO / "docs/how-to/health.md"
BEGIN = "<!-- made by tools/gen_health_figures.py -->\n"
END = "<!-- end -->\n"
SIZES = (10, 100, 1000)
INTERVAL = 10.0
ROUNDS = 3
# Packets and bytes of one check of one address, both ways together, as the inner packets: three echoes and
# their answers of 84 bytes, and HTTP by TCP with timestamps: SYN, SYN-ACK, ACK, request, ACK, answer, FINs.
ECHOES = 3
ECHO_BYTES = 2 * 84
WEB_PACKETS = 10
WEB_BYTES = 2 * 60 + 8 * 52 + 60 + 57
HEAD = (
    "members",
    "checks a host begins",
    "checks a host gets, most in a second / in 10 s",
    "packets, in and out",
    "on the wire",
    "each peer at least every",
)
TUNNEL = 60  # bytes around each packet: outer IPv4, UDP, WireGuard


def measured(members: int) -> tuple[float, int, int, float]:
    """Checks a second that a host begins, the most that one gets in a second and in a round, the cycle."""
    sys.path.insert(0, str(REPO / "agent"))
    from wardmesh.health.schedule import Schedule

    names = [f"host{number}" for number in range(members)]
    seconds: dict[str, Counter[int]] = defaultdict(Counter)
    rounds: dict[str, Counter[int]] = defaultdict(Counter)
    began = 0
    plan = None
    for name in names:
        schedule = Schedule(names, name, INTERVAL)
        plan = schedule.plan
        for number in range(ROUNDS):
            for slot in schedule.round(number):
                began += 1
                seconds[slot.peer][int(number * INTERVAL + slot.after)] += 1
                rounds[slot.peer][number] += 1
    most_second = max(max(counts.values()) for counts in seconds.values())
    most_round = max(max(counts.values()) for counts in rounds.values())
    return began / members / ROUNDS / INTERVAL, most_second, most_round, plan.cycle if plan else 0.0


def table() -> str:
    """The rows as Markdown."""
    packets = ECHOES * 2 + WEB_PACKETS
    size = ECHOES * ECHO_BYTES + WEB_BYTES + packets * TUNNEL
    lines = [
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
    ]
    for members in SIZES:
        rate, second, turn, cycle = measured(members)
        both = 2 * rate  # it begins as many as it gets
        lines.append(
            f"| {members:,} | {rate:.1f} a second | {second} / {turn} | {both * packets:.0f} a second "
            f"| {both * size * 8 / 1000:.0f} kbit/s | {cycle:g} s |"
        )
    return "\n".join(lines) + "\n"


def render() -> str:
    """The page with a new table."""
    text = PAGE.read_text(encoding="utf-8")
    before, _begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    sys.exit(write_or_check({PAGE: render()}, __doc__))
