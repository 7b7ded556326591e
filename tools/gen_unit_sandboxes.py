# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/units.md: what each unit may do, and what systemd-analyze says; --check compares.

The exposure is that of one release of systemd, because each weighs anew. Where another release is installed,
or none, the figures of the page stand and the rest is compared.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from generated import REPO, write_or_check

SYSTEMD = 252  # Debian 12's
FOLDER = REPO / "agent/systemd"
PAGE = REPO / "docs/reference/units.md"
HEADER = f"""# The units and their sandboxes

Made by `tools/gen_unit_sandboxes.py` from `agent/systemd/`; do not edit.

Exposure is what `systemd-analyze security --offline=yes` of systemd {SYSTEMD} says: 0 is nothing, 10 is
everything; up to 4 it calls OK. All of them run as root in name, with the capabilities of this table and no
others, without new privileges, with a file system that is read-only but for what is listed, and with the
system calls of `@system-service`, more and (`~`) less as listed.
"""
FOOTER = """The agent's figure is that of what it is for: it changes routes, devices and sysctls
(`CAP_NET_ADMIN`) and loads programs (`CAP_BPF`, and `CAP_SYS_ADMIN` before Linux 5.8). Observer, relay, page
and health, which speak with the network, have none of these; the WireGuard key is hidden from them.
`wireguard-go` reads the tunnel's packets with `CAP_NET_ADMIN` and the device `/dev/net/tun` alone."""


def directives(path: Path) -> dict[str, list[str]]:
    """The [Service] section: each name with all of its values."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "Service" and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def installed() -> int:
    """The release of systemd here; 0 where there is none."""
    try:
        done = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 0
    match = re.match(r"systemd (\d+)", done.stdout)
    return int(match[1]) if match else 0


def measured(path: Path) -> str:
    """The exposure of a unit file by the systemd that is here."""
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    match = re.search(r"Overall exposure level for \S+ (\d+\.\d)", done.stdout)
    if match is None:
        raise SystemExit(f"systemd-analyze says nothing of {path.name}: {done.stdout}{done.stderr}")
    return match[1]


def figures_of(page: str) -> dict[str, str]:
    """Unit to exposure, as the page has them."""
    return dict(re.findall(r"^\| `(\S+)` \| (\d+\.\d) \|", page, re.MULTILINE))


def _words(values: list[str], without: str = "") -> str:
    words = [word for value in values for word in value.split() if word != without]
    return " ".join(f"`{word}`" for word in words) or "none"


def _row(path: Path, exposure: str) -> str:
    held = directives(path)
    writes = [*held.get("ReadWritePaths", []), *(f"/run/{d}" for d in _split(held, "RuntimeDirectory"))]
    writes += [f"/var/log/{d}" for d in _split(held, "LogsDirectory")]
    families = [family.removeprefix("AF_") for family in _split(held, "RestrictAddressFamilies")]
    cells = [
        f"`{path.name}`",
        exposure,
        _words(held.get("CapabilityBoundingSet", [])).replace("CAP_", ""),
        _words(writes),
        ", ".join(families),
        _words(held.get("SystemCallFilter", []), "@system-service"),
    ]
    return "| " + " | ".join(cells) + " |"


def _split(held: dict[str, list[str]], name: str) -> list[str]:
    return [word for value in held.get(name, []) for word in value.split()]


def render() -> str:
    """The whole page."""
    known = figures_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    here = installed() == SYSTEMD
    rows = [
        _row(path, measured(path) if here else known.get(path.name, "?"))
        for path in sorted(FOLDER.glob("*.service"))
    ]
    table = [
        "| unit | exposure | capabilities | writes to | sockets | system calls beside `@system-service` |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join([HEADER, *table, "", FOOTER]) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check({PAGE: render()}, __doc__))
