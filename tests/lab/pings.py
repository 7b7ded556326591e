# SPDX-License-Identifier: Apache-2.0
"""Pings that run on a host while something happens, and what was lost of them."""

from __future__ import annotations

from lab import Host


def begin(host: Host, other: Host, pace: str = "-i 0.01", family: str = "address") -> str:
    """A hundred requests a second, by a user who is not root; each may take 15 s. That many because a ping at
    the fastest pace takes the processors from the others; tests/netns asks every millisecond. pace: another
    one. Returns the name of its unit."""
    unit = f"ping{other.index}"
    how = f"-p User=nobody -p StandardOutput=file:/run/{unit}"
    host.run(
        f"rm -f /run/{unit}; systemd-run -q --unit={unit} {how} ping -q {pace} -W 15 {getattr(other, family)}"
    )
    return unit


def lost(host: Host, unit: str, at_least: int = 500) -> int:
    """End it: requests without an answer."""
    host.run(f"systemctl kill -s INT {unit}; while systemctl is-active -q {unit}; do sleep 0.1; done")
    return missing(host.run(f"cat /run/{unit}").stdout, at_least)


def missing(said: str, at_least: int = 1) -> int:
    """Requests without an answer, by ping's own words. One that was on its way when the ping ended does not
    count; fewer requests than `at_least` are an error, for they prove nothing."""
    line = next(line for line in said.splitlines() if "transmitted" in line)
    sent, received = int(line.split()[0]), int(line.split()[3])
    assert sent >= at_least, line
    return max(0, sent - received - 1)
