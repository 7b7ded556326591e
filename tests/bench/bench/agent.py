# SPDX-License-Identifier: Apache-2.0
"""The agent on a host: start to ready, resident memory, CPU while nothing happens."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from bench.play import Controller
from bench.report import Section, median
from lab import Host, Lab

READY = re.compile(r"ready after ([0-9.]+) s")


PINNED, KEPT, NOTHING = "pinned", "kept", "nothing"  # what there is of the programs at a start


def start_seconds(host: Host, there_is: str = PINNED) -> float:
    """From systemctl start to ready, by the unit's own readiness."""
    host.run("systemctl stop wardmesh")
    if there_is != PINNED:
        host.run("rm -r /sys/fs/bpf/wardmesh")
    if there_is == NOTHING:
        host.run("rm -r /var/lib/wardmesh/programs")
    took = host.run(
        'python3 -c "import subprocess,time; s=time.monotonic();'
        " subprocess.run(['systemctl','start','wardmesh'],check=True); print(time.monotonic()-s)\""
    )
    host.run("wardmesh status --wait 30")
    return float(took.stdout)


def processor(host: Host) -> float:
    """CPU seconds of the agent's unit."""
    return int(host.run("systemctl show -P CPUUsageNSec wardmesh").stdout) / 1e9


def resident(host: Host) -> float:
    """MiB of the agent's process."""
    pid = host.run("systemctl show -P MainPID wardmesh").stdout.strip()
    return int(host.run(f"grep VmRSS /proc/{pid}/status").stdout.split()[1]) / 1024


def run(say: Callable[[str], None], passes: int = 5, idle: float = 30.0) -> Section:
    """Three members."""
    lab = Lab.up(3, "bench")
    try:
        with Controller(lab) as controller:
            controller.play("site")
        host = lab.hosts[0]
        say("starts")
        rounds = [[start_seconds(host, what) for what in (PINNED, KEPT, NOTHING)] for _pass in range(passes)]
        start_seconds(host)
        say("idle")
        time.sleep(65)  # handshakes are watched closely for a minute after a start
        before, begun = processor(host), time.monotonic()
        time.sleep(idle)
        share = (processor(host) - before) / (time.monotonic() - begun)
        memory = resident(host)
    finally:
        lab.down()
    section = Section(
        "Agent",
        "A container of three members. Start: systemctl start until the unit is ready. Idle: "
        f"{idle:.0f} s of which the first minute after the start is no part. `make bench PART=agent`",
        ("figure", "value"),
    )
    pinned, kept, compiled = (median(list(column)) for column in zip(*rounds, strict=True))
    section.rows += [
        ("start to ready, programs pinned", f"{pinned:.2f} s"),
        ("start to ready after a boot, programs kept on the disk", f"{kept:.2f} s (× {kept / pinned:.1f})"),
        ("start to ready, programs compiled", f"{compiled:.2f} s (× {compiled / pinned:.1f})"),
        ("resident memory", f"{memory:.0f} MiB"),
        ("CPU while idle", f"{100 * share:.2f} % of a core"),
    ]
    section.judge("start to ready when nothing must be compiled", pinned, 0.5, unit=" s")
    section.judge("resident memory", memory, 40, unit=" MiB")
    return section
