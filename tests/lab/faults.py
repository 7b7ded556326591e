# SPDX-License-Identifier: Apache-2.0
"""Faults for a fleet of containers, each a context manager: while it is open, the fault lasts.

netem is not in every kernel, so what passes the lab's bridge is lost and copied by nftables, and reordered by
relay.py. All of it is undone at the end of the block, also when a test fails in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import Host, Lab
from lab.containers import processes, sh

RELAY = Path(__file__).with_name("relay.py")
MEMORY_V1 = Path("/sys/fs/cgroup/memory")
HOG = "import time; kept = []\nwhile True: kept.append(bytearray(b'x') * (1 << 20)); time.sleep(0.001)"
FULL = (
    "mount -t tmpfs -o size=1m tmpfs /mnt && cp -a {folder}/. /mnt && mount --bind /mnt {folder} && "
    "umount /mnt && "
    "{{ dd if=/dev/zero of={folder}/fill bs=1k; cat /dev/zero >> {folder}/fill; }} 2>/dev/null; true"
)


def nft(lab: Lab, rules: str) -> None:
    """Rules in the lab's own network namespace."""
    argv = ["ip", "netns", "exec", lab.bridge_ns, "nft", "-f", "-"]
    done = subprocess.run(argv, input=rules, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nft: {done.stderr}\n{rules}")


@contextlib.contextmanager
def table(lab: Lab, family: str, chains: str) -> Iterator[None]:
    """An nftables table for the block."""
    nft(lab, f"table {family} fault {{\n{chains}\n}}\n")
    try:
        yield
    finally:
        nft(lab, f"delete table {family} fault\n")


@contextlib.contextmanager
def cut_off(lab: Lab) -> Iterator[None]:
    """node3 has no cable: nobody reaches it, the controller neither."""
    lab.pull_cable(lab.hosts[2])
    try:
        yield
    finally:
        lab.plug_cable(lab.hosts[2])


@contextlib.contextmanager
def halves(lab: Lab) -> Iterator[None]:
    """node1 on one side, node2 and node3 on the other; the controller reaches all."""
    pairs = '{ "p1" . "p2", "p1" . "p3", "p2" . "p1", "p3" . "p1" }'
    rules = f"chain c {{\n type filter hook forward priority 0\n iifname . oifname {pairs} drop\n}}"
    with table(lab, "bridge", rules):
        yield


@contextlib.contextmanager
def loss(lab: Lab) -> Iterator[None]:
    """Of all frames between the hosts one in ten is lost."""
    rules = "chain c {\n type filter hook forward priority 0\n numgen random mod 10 0 drop\n}"
    with table(lab, "bridge", rules):
        yield


def _ingress(lab: Lab, rule: Callable[[Host], str]) -> str:
    """A chain for each host's port; everything that the host sends passes it."""
    head = "type filter hook ingress device"
    return "\n".join(
        f'chain c{host.index} {{\n {head} "p{host.index}" priority 0\n{rule(host)}\n}}' for host in lab.hosts
    )


@contextlib.contextmanager
def duplicates(lab: Lab) -> Iterator[None]:
    """Every datagram of the tunnel arrives twice."""

    def rule(host: Host) -> str:
        return "\n".join(
            f' udp dport 51871 ether daddr 02:99:00:00:00:{other.index:02x} dup to "p{other.index}"'
            for other in lab.hosts
            if other != host
        )

    with table(lab, "netdev", _ingress(lab, rule)):
        yield


@contextlib.contextmanager
def disorder(lab: Lab) -> Iterator[None]:
    """Every third datagram of the tunnel is overtaken by those after it."""
    ns = lab.bridge_ns
    sh("ip", "-n", ns, "link", "add", "late0", "type", "veth", "peer", "name", "late1")
    for name in ("late0", "late1"):
        sh("ip", "-n", ns, "link", "set", name, "up")
    argv = ["ip", "netns", "exec", ns, sys.executable, str(RELAY), "late1", "br0"]
    relay = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert relay.stdout is not None and relay.stdout.readline() == "ready\n"
        with table(
            lab,
            "netdev",
            _ingress(lab, lambda _host: ' udp dport 51871 numgen random mod 3 0 fwd to "late0"'),
        ):
            yield
            assert relay.poll() is None
    finally:
        relay.terminate()
        relay.communicate(timeout=10)
        sh("ip", "-n", ns, "link", "del", "late0")


@contextlib.contextmanager
def full_disk(lab: Lab) -> Iterator[None]:
    """Neither state nor configuration of node2 can be written, and its agent has to start in that.

    They stay on file systems of their own when there is room again: the agent sees what it saw when it began.
    """
    host = lab.hosts[1]
    for folder in ("/var/lib/wardmesh", "/etc/wardmesh"):
        host.run(FULL.format(folder=folder))
    try:
        assert host.run("cp /bin/true /var/lib/wardmesh/x", check=False).returncode != 0
        host.run("systemctl kill -s KILL wardmesh")
        host.run("wardmesh status --wait 120")
        yield
    finally:
        host.run("rm /etc/wardmesh/fill /var/lib/wardmesh/fill")


def agent_pid(lab: Lab, host: Host) -> int:
    """Its number as this machine counts."""
    for pid in processes(f"wl-{lab.name}-{host.index}"):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"/usr/local/bin/wardmesh" in words and b"daemon" in words:
                return pid
    raise RuntimeError(f"no agent runs on {host.name}")


@contextlib.contextmanager
def out_of_memory(lab: Lab) -> Iterator[None]:
    """The kernel's OOM killer ends node2's agent, which shares a small group with one who takes it all."""
    pid = agent_pid(lab, lab.hosts[1])
    group, limit = _memory_group(pid, f"wl-oom-{lab.name}")
    hog = subprocess.Popen([sys.executable, "-c", f"input()\n{HOG}"], stdin=subprocess.PIPE)
    try:
        # Its unit asks to be spared; here it is to be the first.
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        for number in (pid, hog.pid):
            (group / "cgroup.procs").write_text(str(number))
        (group / limit).write_text(str(48 << 20))
        assert hog.stdin is not None
        hog.stdin.write(b"\n")
        hog.stdin.flush()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "the kernel killed nobody"
            time.sleep(0.05)
        events = "memory.oom_control" if limit == "memory.limit_in_bytes" else "memory.events"
        told = dict(line.split() for line in (group / events).read_text().splitlines())
        assert int(told["oom_kill"]) > 0, told
        hog.kill()
        yield
    finally:
        hog.kill()
        hog.wait()
        if limit == "memory.max":
            (group / limit).write_text("max")
        else:
            _leave(group)


def _memory_group(pid: int, name: str) -> tuple[Path, str]:
    """A group with a limit for the agent: one of its own, or its unit's where groups are of one hierarchy."""
    if MEMORY_V1.is_dir():
        group = MEMORY_V1 / name
        group.mkdir(exist_ok=True)
        return group, "memory.limit_in_bytes"
    own = next(
        line.partition("::")[2]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )
    return Path("/sys/fs/cgroup") / own.lstrip("/"), "memory.max"


def _leave(group: Path) -> None:
    """Whoever is left in it goes back to the root; then it can go."""
    for number in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (group.parent / "cgroup.procs").write_text(number)
    group.rmdir()


@contextlib.contextmanager
def killed(lab: Lab) -> Iterator[None]:
    """Every agent at once, without a word."""
    for host in lab.hosts:
        os.kill(agent_pid(lab, host), signal.SIGKILL)
    yield


# A map that follows the one in force: a member has another label.
NEWER = """
import json, sys
sys.path.insert(0, "/usr/local/lib/wardmesh/current")
from wardmesh.model.fleetmap import canonical, digest_of
document = json.load(open("/etc/wardmesh/fleet.json"))
del document["digest"]
document["generation"] += 1
document["members"][0].setdefault("labels", {})["turn"] = str(document["generation"])
open("/run/newer.json", "wb").write(canonical({**document, "digest": digest_of(document)}) + b"\\n")
"""


@contextlib.contextmanager
def stopped(lab: Lab) -> Iterator[None]:
    """Agents are told to stop in the middle of a change, at several points of it: node2's of a policy,
    node3's of a map. Afterwards the same change goes through."""
    _one, two, three = lab.hosts
    two.run("cp -r /run/p /run/both")
    two.run("sed 's/7001/7004/; s/name: open/name: more/' /run/p/open.yaml > /run/both/more.yaml")
    three.run("cat > /run/newer.py", stdin=NEWER)
    for pause in (0.1, 0.3, 0.6, 1.0):
        two.run("wardmesh policy apply /run/p --replace")
        three.run("python3 /run/newer.py")
        changes = [
            two.popen("wardmesh policy apply /run/both --replace"),
            three.popen("wardmesh fleet apply /run/newer.json"),
        ]
        time.sleep(pause)
        for host, change in zip((two, three), changes, strict=True):
            host.run("systemctl stop wardmesh")
            change.communicate(timeout=60)
            host.run("systemctl start wardmesh")
            host.run("wardmesh status --wait 120")
    two.run("wardmesh policy apply /run/both --replace && wardmesh policy apply /run/p --replace")
    three.run("python3 /run/newer.py && wardmesh fleet apply /run/newer.json")
    yield
