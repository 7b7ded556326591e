# SPDX-License-Identifier: Apache-2.0
"""Judge a fleet by what passes and by what is on its wire, not by what it says about itself.

`wire.py whole [--without NODE]`: every host gets a byte of text from every other over TCP, both families,
and a capture of all of it holds the tunnel's datagrams and no plain packet between members.
`wire.py plain`: the same text passes, and the capture shows it: what `whole` looks for can be found.
`wire.py during COMMAND …`: run a command while every host pings every other, with a capture beside it; the
command's output and exit status, or 70 when a plain packet passed between members meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hosts import lab

from lab import Host
from lab.pcap import plain_between, read

TEXT = b"SSH-2.0-"  # sshd says it to whoever connects: plain text that every host has to offer
LEAKED = 70
# For each address: does the banner of its sshd come back? An address a line on stdin, and out when it did.
PROBE = """
import socket, sys
for line in sys.stdin.read().split():
    try:
        with socket.create_connection((line, 22), 5) as link:
            link.settimeout(5)
            if link.recv(8) == b"SSH-2.0-": print(line)
    except OSError:
        pass
"""
TRIES = 20  # a host that has been away may take a handshake's retries (5 s) to be back


def addresses(host: Host) -> list[str]:
    """Both families."""
    return [host.address, host.address6]


def exchange(hosts: list[Host]) -> list[str]:
    """Every ordered pair in both families; those that got nothing."""
    silent = []
    for source in hosts:
        wanted = [address for target in hosts if target != source for address in addresses(target)]
        for _attempt in range(TRIES):
            done = source.run(f"python3 -c '{PROBE}'", stdin="\n".join(wanted), timeout=120)
            missing = sorted(set(wanted) - set(done.stdout.split()))
            if not missing:
                break
            time.sleep(0.5)
        silent += [f"{source.name} gets nothing from {address}" for address in missing]
    return silent


def during(argv: list[str], folder: Path) -> int:
    """Run the command under a capture; the pings go on through whatever becomes of the hosts."""
    hosts = lab().hosts
    with lab().capture(folder / "wire.pcap"):
        talking = 0
        for host in hosts:
            others = [address for other in hosts if other != host for address in addresses(other)]
            pings = " & ".join(f"ping -q -i 0.1 -w 300 {address}" for address in others)
            host.run("systemctl stop talk", check=False)
            begun = host.run(f"systemd-run -q --collect --unit=talk sh -c '{pings} & wait'", check=False)
            talking += begun.returncode == 0
        if talking < 2:  # one may be out of reach; a capture of nobody would show nothing
            raise RuntimeError("nobody talks")
        status = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode
        for host in lab().hosts:
            with contextlib.suppress(subprocess.TimeoutExpired):  # out of reach; they end by themselves
                host.run("systemctl stop talk", check=False, timeout=20)
    leaked = plain(folder / "wire.pcap")
    if leaked:
        sys.stderr.write(f"{len(leaked)} plain packets between members, first: {leaked[0]}\n")
        return LEAKED
    return status


def plain(path: Path) -> list[str]:
    """Plain packets between members."""
    members = {address for host in lab().hosts for address in addresses(host)}
    return [
        f"{frame.src} > {frame.dst} protocol {frame.protocol} port {frame.dport}"
        for frame in plain_between(path, members)
    ]


def whole(without: list[str], folder: Path, encrypted: bool) -> int:
    """Probe and judge; the problems, one a line."""
    hosts = [host for host in lab().hosts if host.name not in without]
    # Once without a capture: what a tunnel needs to come up again is not what is judged.
    problems = exchange(hosts)
    with lab().capture(folder / "wire.pcap"):
        problems += exchange(hosts) if not problems else []
    frames = list(read(folder / "wire.pcap"))
    tunnel = sum(frame.protocol == 17 and frame.dport == 51871 for frame in frames)
    leaked = plain(folder / "wire.pcap")
    pairs = len(hosts) * (len(hosts) - 1) * 2
    if encrypted:
        problems += [f"plain on the wire: {line}" for line in leaked[:5]]
        problems += [] if tunnel >= pairs * 4 else [f"only {tunnel} datagrams of the tunnel on the wire"]
    elif not any(TEXT in frame.data for frame in frames) or not leaked:
        problems.append("the text is not on the wire: this capture could not show a leak")
    sys.stderr.write("".join(f"{line}\n" for line in problems))
    sys.stdout.write(f"{pairs} pairs, {tunnel} datagrams of the tunnel, {len(leaked)} plain packets\n")
    return 1 if problems else 0


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("whole").add_argument("--without", action="append", default=[])
    verbs.add_parser("plain")
    verbs.add_parser("during").add_argument("argv", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.verb == "during":
            return during(args.argv, Path(folder))
        return whole(getattr(args, "without", []), Path(folder), args.verb == "whole")


if __name__ == "__main__":
    sys.exit(main())
