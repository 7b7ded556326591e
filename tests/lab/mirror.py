# SPDX-License-Identifier: Apache-2.0
"""A package mirror on a lab host, as operators have one of their own: nothing else can be installed there."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import Host

FOR_APT = ("python3-apt", "python-apt-common", "distro-info-data")  # what Ansible's apt module wants


def put(host: Host, path: str, data: bytes) -> None:
    """A file on the host."""
    subprocess.run(["ssh", *host.options, f"root@{host.address}", f"cat > {path}"], input=data, check=True)


def mirror(host: Host, folder: Path, *names: str) -> None:
    """Make one with these packages; folder: a new one, on the controller."""
    folder.mkdir()
    subprocess.run(["apt-get", "download", "-qq", *names, *FOR_APT], check=True, cwd=folder, timeout=120)
    packages = subprocess.run(
        ["dpkg-scanpackages", "-m", "."], check=True, capture_output=True, cwd=folder, timeout=60
    ).stdout
    host.run("mkdir -p /srv/mirror && rm -f /etc/apt/sources.list.d/*")
    put(host, "/srv/mirror/Packages", packages)
    for package in folder.glob("*.deb"):
        put(host, f"/srv/mirror/{package.name}", package.read_bytes())
    host.run("echo 'deb [trusted=yes] file:/srv/mirror ./' > /etc/apt/sources.list && apt-get -qq update")
