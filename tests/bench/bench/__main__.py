# SPDX-License-Identifier: Apache-2.0
"""`make bench`, or `make bench PART=tunnel,map`, which renews the sections of these parts alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from bench import (
    agent,
    apply,
    churn,
    drift,
    firewall,
    fleetmap,
    flows,
    iptables,
    observe,
    receive,
    rollout,
    roundtrip,
    tunnel,
    verdict,
)
from bench.report import PAGE, Section, machine, renew, write_page

PARTS: dict[str, Callable[[Callable[[str], None]], Section]] = {
    "verdict": verdict.run,
    "firewall": firewall.run,
    "observe": observe.run,
    "flows": flows.run,
    "receive": receive.run,
    "growth": receive.run_growth,
    "iptables": iptables.run,
    "apply": apply.run,
    "roundtrip": roundtrip.run,
    "map": fleetmap.run,
    "agent": agent.run,
    "tunnel": tunnel.run,
    "rollout": rollout.run,
    "drift": drift.run,
    "churn": churn.run,
}


def main() -> int:
    """Run the chosen parts one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)}; all without")
    chosen = [name for word in parser.parse_args().part for name in word.split(",") if name] or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)} (there are {', '.join(PARTS)})")
    started = time.monotonic()
    print(f"machine: {machine()}", flush=True)
    sections = []
    for name in chosen:

        def say(text: str, part: str = name) -> None:
            print(f"[{time.monotonic() - started:6.1f}s] {part}: {text}", flush=True)

        say("starts")
        sections.append(PARTS[name](say))
        print(f"\n{sections[-1].markdown()}\n", flush=True)
    if chosen == list(PARTS):
        write_page(sections)
    else:
        renew(sections)
    print(f"written: {PAGE.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
