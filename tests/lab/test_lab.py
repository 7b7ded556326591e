# SPDX-License-Identifier: Apache-2.0
"""The lab itself: hosts are real, the wire is seen, nothing is left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Lab
from lab.kernels import settle
from lab.pcap import read

NAME = "selftest"


def leftovers() -> str:
    parts = [
        subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        for argv in (["ip", "netns", "list"], ["cat", "/proc/mounts"], ["ps", "-ewwo", "args"])
    ]
    return "\n".join(
        line for part in parts for line in part.splitlines() if f"wl-{NAME}" in line or f"labs/{NAME}" in line
    )


@pytest.mark.parametrize("folder", ["lib/modules", "usr/lib/modules"])
def test_a_kernels_modules_are_found_where_its_package_has_them(tmp_path: Path, folder: str) -> None:
    """Below lib in Debian 12, below usr/lib in Debian 13."""
    (tmp_path / folder / "6.12").mkdir(parents=True)
    settle(tmp_path)
    assert (tmp_path / "lib/modules/6.12").is_dir()


@pytest.mark.container  # of machines, test_fleet.py shows the same before its first rollout
def test_hosts_see_each_other_and_the_capture_sees_both_directions(kind: str, tmp_path: Path) -> None:
    lab = Lab.up(2, NAME, kind)
    try:
        one, two = lab.hosts
        assert one.run("systemctl is-system-running --wait || true").stdout.strip() in ("running", "degraded")
        with lab.capture(tmp_path / "c.pcap"):
            one.run(f"ping -c 3 -i 0.2 {two.address}")
        frames = [frame for frame in read(tmp_path / "c.pcap") if frame.protocol == 1]
        assert [sum(frame.src == host.address for frame in frames) for host in (one, two)] == [3, 3]
    finally:
        lab.down()
    assert not leftovers()


def test_a_lab_that_was_killed_half_way_is_cleaned_up(kind: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "--name", NAME, "up", "3", "--kind", kind],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parent,
    )
    # An overlay that is mounted, or a machine's process; images may have to be built before.
    deadline = time.monotonic() + 600
    while f"labs/{NAME}/2" not in leftovers() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert leftovers()
    Lab(NAME).down()
    # The killed lab's last ssh outlives it by its own time limit.
    deadline = time.monotonic() + 30
    while leftovers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not leftovers()
