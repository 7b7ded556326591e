# SPDX-License-Identifier: Apache-2.0
"""`make demo`: three hosts, one playbook, and proof that what they say to each other can no longer be read.

The same HTTP exchange is captured on the wire before and after the rollout. Before, the capture must hold the
text: that shows that the capture can see. After, it must hold UDP 51871 and none of the text.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Host, Lab, pcap

REPO = Path(__file__).resolve().parents[1]

WORK = REPO / ".build" / "demo"
INVENTORY = WORK / "inventory.yml"
LAB_NAME = "demo"
HTTP_PORT = 8080
PLAYBOOK_LIMIT_SECONDS = 900.0  # far above what it takes; it only ends a hang
TUNNEL_PORT = 51871
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
RECAP = re.compile(r"^(\S+)\s*:\s*ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class ProofError(Exception):
    """A promise of the demo did not hold."""


class Phases:
    """Names each phase when it starts and keeps how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block under `name`."""
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def table(self) -> str:
        """One line for each phase and one for all."""
        rows = [*self.seconds.items(), ("together", sum(self.seconds.values()))]
        return "\n".join(f"  {name:<44}{seconds:>7.1f} s" for name, seconds in rows)


def show(line: str) -> None:
    """A line that states what was proved."""
    print(f"   {line}", flush=True)


def playbook(name: str) -> str:
    """Run a playbook over SSH with its output on the terminal; the output."""
    argv = [str(REPO / ".venv/bin/ansible-playbook"), "-i", str(INVENTORY), f"playbooks/{name}"]
    print(f"   $ ansible-playbook -i {INVENTORY.relative_to(REPO)} playbooks/{name}", flush=True)
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".dev"),
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
    }
    lines = []
    process = subprocess.Popen(
        argv,
        cwd=REPO,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    limit = threading.Timer(PLAYBOOK_LIMIT_SECONDS, process.terminate)
    limit.start()
    try:
        for line in process.stdout or ():
            lines.append(line)
            print(f"   | {line}", end="", flush=True)
    finally:
        limit.cancel()
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.terminate()
    if process.wait() != 0:
        raise ProofError(f"playbooks/{name} ended with exit status {process.returncode}")
    return "".join(lines)


def serve(host: Host, text: str) -> None:
    """Serve `text` in plain HTTP on all addresses of the host, as any application would."""
    command = (
        f"mkdir -p /srv/demo && printf %s {shlex.quote(text)} > /srv/demo/index.txt && "
        f"systemd-run --quiet --unit=demo-http --working-directory=/srv/demo "
        f"/usr/bin/python3 -m http.server {HTTP_PORT} --bind ::"
    )
    host.run(command)


def fetch(host: Host, address: str) -> str:
    """Fetch the text from an ordinary address, trying until the server listens."""
    literal = f"[{address}]" if ":" in address else address
    program = (
        "import sys,time,urllib.request\n"
        "for left in range(50,-1,-1):\n"
        "  try:\n"
        "    sys.stdout.write(urllib.request.urlopen(sys.argv[1],timeout=5).read().decode()); break\n"
        "  except OSError as error:\n"
        "    if not left: sys.exit(str(error))\n"
        "    time.sleep(0.2)\n"
    )
    url = f"http://{literal}:{HTTP_PORT}/index.txt"
    return str(host.run(f"python3 -c {shlex.quote(program)} {shlex.quote(url)}").stdout)


def exchange(lab: Lab, text: str, pcap: Path) -> None:
    """Let every host fetch the text from node1 by IPv4 and IPv6 while the wire is captured."""
    server, *clients = lab.hosts
    with lab.capture(pcap):
        for client in clients:
            for address in (server.address, server.address6):
                answer = fetch(client, address)
                if answer != text:
                    raise ProofError(f"{client.name} got {answer!r} from {address}, expected {text!r}")
                show(f"{client.name} → http://{address}: {answer}")


def members(lab: Lab) -> set[str]:
    """Every address of every host."""
    return {address for host in lab.hosts for address in (host.address, host.address6)}


def seen(frames: list[pcap.Frame]) -> str:
    """What kinds of packets there are and how many: `TCP 8080 ×24, UDP 51871 ×12`."""
    kinds: Counter[str] = Counter()
    for frame in frames:
        name = PROTOCOLS.get(frame.protocol, f"IP protocol {frame.protocol}")
        ports = {frame.sport, frame.dport} - {0}
        kinds[f"{name} {min(ports)}" if ports else name] += 1
    return ", ".join(f"{kind} ×{count}" for kind, count in sorted(kinds.items())) or "nothing"


def occurrences(frames: list[pcap.Frame], text: str) -> int:
    """How often the text can be read."""
    return sum(frame.data.count(text.encode()) for frame in frames)


def prove_readable(lab: Lab, text: str, capture: Path) -> None:
    """The control: before the rollout the capture must see the text."""
    frames = [frame for frame in pcap.read(capture) if {frame.src, frame.dst} <= members(lab)]
    found = occurrences(frames, text)
    if not found:
        raise ProofError(
            "the capture does not see the plain text before the rollout; it could prove nothing after"
        )
    show(f"on the wire between members: {seen(frames)}; the text can be read {found} times")


def prove_encrypted(lab: Lab, text: str, capture: Path) -> None:
    """After the rollout: the tunnel, nothing else between members but NDP, none of the text."""
    everything = list(pcap.read(capture))
    between = [frame for frame in everything if {frame.src, frame.dst} <= members(lab)]
    tunnel = [frame for frame in between if frame.protocol == 17 and frame.dport == TUNNEL_PORT]
    plain = pcap.plain_between(capture, members(lab))
    found = occurrences(everything, text)
    if not tunnel:
        raise ProofError(f"no UDP {TUNNEL_PORT} on the wire during the exchange, only {seen(between)}")
    if plain:
        raise ProofError(f"between members there was also {seen(plain)}")
    if found:
        raise ProofError(f"the text can be read {found} times")
    show(f"on the wire between members: {seen(between)}; the text can be read 0 times")


def prove_unchanged(output: str, lab: Lab) -> None:
    """The second run must report changed=0 on every host."""
    recap = {name: tuple(map(int, counts)) for name, *counts in RECAP.findall(output)}
    for host in lab.hosts:
        if host.name not in recap:
            raise ProofError(f"the second run says nothing about {host.name}")
        _ok, changed, unreachable, failed = recap[host.name]
        if changed or unreachable or failed:
            raise ProofError(
                f"second run on {host.name}: changed={changed} unreachable={unreachable} failed={failed}"
            )
    show(f"second run: changed=0 on {', '.join(host.name for host in lab.hosts)}")


def demonstrate(lab: Lab, phases: Phases) -> None:
    """Everything between the start of the hosts and the closing table."""
    text = f"meet me at the old bridge, {secrets.token_hex(4)}"
    with phases.phase("before: plain HTTP between ordinary addresses"):
        serve(lab.hosts[0], text)
        exchange(lab, text, WORK / "before.pcap")
        prove_readable(lab, text, WORK / "before.pcap")
    with phases.phase("first run of the playbook"):
        playbook("site.yml")
    with phases.phase("after: the same exchange"):
        exchange(lab, text, WORK / "after.pcap")
        prove_encrypted(lab, text, WORK / "after.pcap")
    with phases.phase("second run of the playbook"):
        prove_unchanged(playbook("site.yml"), lab)
    with phases.phase("status of the fleet"):
        playbook("status.yml")


def start_hosts() -> Lab:
    """A clean working folder and three hosts with an inventory."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    lab = Lab.up(3, name=LAB_NAME)
    lab.inventory(INVENTORY)
    for host in lab.hosts:
        show(f"{host.name}  {host.address}  {host.address6}")
    return lab


@contextmanager
def own_connections() -> Iterator[None]:
    """Keep Ansible's shared SSH connections to ourselves, and end them afterwards.

    Every lab has the same addresses, so a connection that another lab left open must not be taken for ours.
    """
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        os.environ["ANSIBLE_SSH_CONTROL_PATH_DIR"] = folder
        try:
            yield
        finally:
            for socket in Path(folder).iterdir():
                subprocess.run(["ssh", "-q", "-S", str(socket), "-O", "exit", "host"], check=False)


def main() -> int:
    """Run the demo; 1 when a proof failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with own_connections():
        return run()


def run() -> int:
    """The phases, and the hosts' end whatever happens to them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the hosts running")
    keep = parser.parse_args().keep
    phases = Phases()
    lab = None
    status = 0
    try:
        with phases.phase("three hosts"):
            lab = start_hosts()
        demonstrate(lab, phases)
    except ProofError as error:
        print(f"\nFAILED: {error}", file=sys.stderr, flush=True)
        status = 1
    finally:
        if lab is not None and not keep:
            with phases.phase("taking the hosts down"):
                lab.down()
                shutil.rmtree(WORK, ignore_errors=True)
    print(f"\n== times\n{phases.table()}")
    if keep and lab is not None:
        print("\nThe hosts are kept.")
        for host in lab.hosts:
            print(f"  {host.name}: {shlex.join(host.ssh_command())}")
        print(f"  playbooks: .venv/bin/ansible-playbook -i {INVENTORY.relative_to(REPO)} playbooks/site.yml")
        print(f"  down: PYTHONPATH=tests/lab python3 -m lab --name {LAB_NAME} down")
    return status


if __name__ == "__main__":
    sys.exit(main())
