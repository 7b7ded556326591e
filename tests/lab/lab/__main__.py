# SPDX-License-Identifier: Apache-2.0
"""Command line: up 3 [--kind vm] [--suite trixie] | ssh 1 [CMD] | down | list |
inventory FILE | capture FILE SECONDS | deps.

Kinds of host: container (systemd-nspawn, this machine's kernel) and vm (QEMU, Debian's kernel).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path

from lab.image import SUITE, cache_dir
from lab.lab import STARTERS, Lab

DEPENDENCIES = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "tcpdump": "tcpdump",
    "ssh": "openssh-client",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
}


def deps() -> None:
    """Install what the lab needs and what is missing."""
    missing = [package for program, package in DEPENDENCIES.items() if not shutil.which(program)]
    if missing:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
            check=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    parser.add_argument("--name", default="lab", help="name of the lab; several may stand side by side")
    sub = parser.add_subparsers(dest="command", required=True)
    up = sub.add_parser("up")
    up.add_argument("count", type=int)
    up.add_argument("--kind", choices=sorted(STARTERS), default="container")
    up.add_argument("--suite", default=SUITE, help="Debian's name of the hosts' distribution")
    ssh = sub.add_parser("ssh")
    ssh.add_argument("index", type=int)
    ssh.add_argument("words", nargs=argparse.REMAINDER)
    for name in ("down", "list", "deps"):
        sub.add_parser(name)
    sub.add_parser("inventory").add_argument("file", type=Path)
    capture = sub.add_parser("capture")
    capture.add_argument("file", type=Path)
    capture.add_argument("seconds", type=float)
    args = parser.parse_args()
    if args.command == "deps":
        deps()
        return 0
    if args.command == "list":
        for folder in sorted((cache_dir() / "labs").glob("*")):
            print(folder.name, " ".join(f"node{path.name}" for path in sorted(folder.glob("[0-9]*"))))
        return 0
    if args.command == "up":
        start = time.monotonic()
        lab = Lab.up(args.count, args.name, args.kind, args.suite)
        print(
            f"{len(lab.hosts)} hosts in {time.monotonic() - start:.1f} s; "
            f"python3 -m lab --name {lab.name} ssh 1"
        )
        return 0
    lab = Lab(args.name)
    if args.command == "down":
        lab.down()
    elif args.command == "inventory":
        lab.inventory(args.file)
    elif args.command == "capture":
        with lab.capture(args.file):
            time.sleep(args.seconds)
    else:
        host = next(host for host in lab.hosts if host.index == args.index)
        command = host.ssh_command()
        os.execvp(command[0], command + args.words)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
