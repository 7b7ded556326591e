# SPDX-License-Identifier: Apache-2.0
"""Compiled eBPF programs for lab hosts, so that not every lab compiles the same again.

Compiling takes most of a rollout's time. test_fleet.py and test_rollout.py let their hosts do it; other labs'
hosts find what one of them made, as a host does after a reboot. The name of a file says what it was made of.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

from lab import Host, Lab

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".build/programs"
FOLDER = "/var/lib/wardmesh/programs"
# Compiles and keeps the firewall for the kernel that the arguments name, with that kernel's headers.
OUTSIDE = """
import os, sys
sys.path.insert(0, "/run/wardmesh.pyz")
uname = os.uname_result(sys.argv[1:])
os.uname = lambda: uname
from wardmesh.datapath.firewall import Firewall
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config
wall = Config().firewall
assert Firewall(Paths(), Config().members_max, wall.rows_max, wall.flows_max).ensure_loaded()
"""


def give(lab: Lab) -> None:
    """What there is to every host."""
    for path in sorted(KEPT.glob("*.json")):
        for host in lab.hosts:
            _write(host, path.name, path.read_text())


def take(lab: Lab) -> None:
    """Keep what the first host compiled."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in lab.hosts[0].run(f"ls {FOLDER}").stdout.split():
        if not (KEPT / name).exists():
            fresh = KEPT / f".{name}.{lab.name}"
            fresh.write_text(lab.hosts[0].run(f"cat {FOLDER}/{name}").stdout)
            fresh.rename(KEPT / name)


def compile_firewall_outside(machine: Host) -> None:
    """Compile for an emulated machine, which would take six minutes, in a container of the same packages.

    The machine's kernel verifies the program all the same; the guard it compiles by itself.
    """
    names = [machine.run(f"uname -{letter}").stdout.strip() for letter in "snrvm"]
    agent = KEPT.parent / "outside.pyz"
    subprocess.run([sys.executable, str(ROOT / "agent/build_zipapp.py"), str(agent)], check=True)
    lab = Lab.up(1, "compiler")
    try:
        host = lab.hosts[0]
        host.run("base64 -d > /run/wardmesh.pyz", stdin=base64.b64encode(agent.read_bytes()).decode())
        host.run("cat > /run/outside.py", stdin=OUTSIDE)
        words = " ".join(f"'{name}'" for name in names)
        host.run(f"python3 /run/outside.py {words}", timeout=300)
        (name,) = host.run(f"ls {FOLDER}").stdout.split()
        _write(machine, name, host.run(f"cat {FOLDER}/{name}").stdout)
    finally:
        lab.down()
        agent.unlink()


def _write(host: Host, name: str, text: str) -> None:
    host.run(f"umask 077; mkdir -p {FOLDER}; cat > {FOLDER}/{name}", stdin=text)
