# SPDX-License-Identifier: Apache-2.0
"""The receive path with iptables-legacy, on a machine: a kernel without its tables cannot show it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.receive import METHOD, Samples, added, judge_denied, table
from bench.report import REPO, Section, median
from bench.rivals import NONE, OURS, SET, legacy
from lab import Lab
from lab.host import Host

PASSES, MANY = 5, 20_000
LEGACY = legacy(1_000)
PACKAGES = ("iptables", "nftables")
SOURCES = ("agent", "bpf", "tests/bpf", "tests/bench", "tests/__init__.py")
PLACE = "/root/bench"
# As many connections as our table holds: so small a machine would keep fewer than the benchmark opens.
PREPARE = (
    "modprobe tun && modprobe nf_conntrack hashsize=65536 && sysctl -qw net.netfilter.nf_conntrack_max=131072"
)


def run(say: Callable[[str], None]) -> Section:
    """One machine for all variants."""
    say("a machine starts")
    lab = Lab.up(1, "bench", kind="vm")
    try:
        (host,) = lab.hosts
        _install(host)
        _copy(host)
        say(f"{PASSES} passes, on the machine")
        path = f"PYTHONPATH={PLACE}/agent:{PLACE}/tests/bench:{PLACE}"
        host.run(PREPARE)
        done = host.run(f"cd {PLACE} && {path} python3 -m bench.receive {PASSES} {MANY}", timeout=1_500)
    finally:
        lab.down()
    return _section(json.loads(done.stdout.splitlines()[-1]))


def _section(samples: Samples) -> Section:
    bare = median(samples[NONE.name]["SYN denied"]) / median(samples[LEGACY.name]["SYN denied"])
    section = table(
        samples,
        "The receive path beside iptables",
        f"{METHOD} On a machine with Debian's 6.1 kernel, because this one has no tables for "
        "iptables-legacy. Where its processor is emulated, as here, the way to a firewall is dear and a walk "
        f"through its rules is cheap: a SYN that meets no firewall takes {bare:.2f} of what 1,000 rules of "
        f"iptables-legacy take to deny it. Medians of {PASSES} passes. `make bench PART=iptables`",
    )
    judge_denied(section, samples, LEGACY, "1,000 rules of iptables-legacy", 1 / 20)
    for case in ("established", "new"):
        for other, what in ((SET, "nftables with a set"), (LEGACY, "1,000 rules of iptables-legacy")):
            figure = added(samples, OURS, case) / added(samples, other, case)
            section.judge(f"{case}: added, to {what}", figure, 1 / 3)
    return section


def _install(host: Host) -> None:
    """What the machine lacks of iptables and nft; it has no mirror, so it gets the packages from here."""
    argv = [
        "apt-cache",
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-enhances",
        "--no-conflicts",
    ]
    argv += ["--no-breaks", "--no-replaces", *PACKAGES]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = {line for line in lines if line and line[0].isalnum()}
    present = set(host.run("dpkg-query -W -f '${Package}\\n'").stdout.split())
    with tempfile.TemporaryDirectory() as work:
        get = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *sorted(wanted - present)]
        subprocess.run(get, check=True, cwd=work, stdin=subprocess.DEVNULL)
        host.run("mkdir -p /root/debs")
        for deb in Path(work).glob("*.deb"):
            host.put(deb, f"/root/debs/{deb.name}")
    host.run("dpkg -i /root/debs/*.deb")


def _copy(host: Host) -> None:
    """Agent, programs and benchmarks."""
    with tempfile.TemporaryDirectory() as work:
        archive = Path(work) / "bench.tar"
        present = [name for name in SOURCES if (REPO / name).exists()]
        subprocess.run(["tar", "-cf", archive, "--exclude=__pycache__", *present], check=True, cwd=REPO)
        host.put(archive, "/root/bench.tar")
    host.run(f"mkdir -p {PLACE} && tar -xf /root/bench.tar -C {PLACE}")
