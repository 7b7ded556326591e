# SPDX-License-Identifier: Apache-2.0
"""The real programs under BPF_PROG_TEST_RUN: a guard of its own bpf file system, runs, and verdict costs."""

from __future__ import annotations

import ipaddress
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bpf import packets, stub

from wardmesh.datapath import bpfsys
from wardmesh.datapath.contract import (
    DIRECTIONS,
    EGRESS,
    INGRESS,
    MARK,
    MEMBER,
    PROGRAMS,
    REASONS,
    SELF,
    STRICT,
    Network,
)
from wardmesh.datapath.guard import Guard
from wardmesh.host.paths import Paths

PASS, DROP = -1, 2  # TC_ACT_UNSPEC, TC_ACT_SHOT
LISTEN_PORT = 51871
PYTHON = "/usr/bin/python3"  # the one that has bcc
BY_NAME = {name: reason for reason, name in REASONS.items()}

# struct __sk_buff of linux/bpf.h: size, and the fields that a test run takes or gives
_CONTEXT_SIZE = 192
_MARK_AT = 8
_INGRESS_IFINDEX_AT = 36
_IFINDEX_AT = 40
_DATA_END_AT = 80


@dataclass(frozen=True)
class TestPaths(Paths):
    """State and pins below a folder of the test; headers are looked for on the real system."""

    __test__ = False

    home: Path = Path("/nonexistent")

    @property
    def state(self) -> Path:
        """The agent's state."""
        return self.home / "state"

    @property
    def bpffs(self) -> Path:
        """The guard's folder."""
        return self.home / "bpf/wardmesh"


@contextmanager
def bpf_filesystem(root: Path) -> Iterator[TestPaths]:
    """Paths with a mounted bpf file system that is gone afterwards, with everything pinned in it."""
    mount = root / "bpf"
    mount.mkdir(parents=True, exist_ok=True)
    bpfsys.mount_bpffs(mount)
    try:
        yield TestPaths(home=root)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def may_load() -> str:
    """Why this machine cannot load the programs, or nothing."""
    if os.geteuid():
        return "root is needed"
    if not shutil.which(PYTHON):
        return f"{PYTHON} is missing"
    return ""


def network(text: str) -> Network:
    """An address or network."""
    return ipaddress.ip_network(text)


# The fleet of the tables: who is who.
SELF4, SELF6 = "10.0.0.1", "fd00::1"
STRICT4, STRICT6 = "10.0.0.2", "fd00::2"
PLAIN4, PLAIN6 = "10.0.0.3", "fd00::3"
BEHIND4, BEHIND6 = "10.5.7.7", "fd05::77"  # in a subnet behind the strict member
PLAIN_BEHIND4 = "10.5.9.1"  # a host of that subnet which is a member itself, not strict
OWN_BEHIND4, OWN_BEHIND6 = "10.6.0.9", "fd06::9"  # in a subnet behind this host
STRANGER4, STRANGER6 = "192.0.2.9", "2001:db8::9"
FLEET: dict[Network, tuple[int, int]] = {
    network(SELF4): (1, SELF),
    network(SELF6): (1, SELF),
    network(STRICT4): (65792, MEMBER | STRICT),
    network(STRICT6): (65792, MEMBER | STRICT),
    network(PLAIN4): (65793, MEMBER),
    network(PLAIN6): (65793, MEMBER),
    network("10.5.0.0/16"): (65792, MEMBER | STRICT),
    network("fd05::/64"): (65792, MEMBER | STRICT),
    network(PLAIN_BEHIND4): (65794, MEMBER),
    network("10.6.0.0/16"): (1, SELF),
    network("fd06::/64"): (1, SELF),
}
EXCEPTIONS = {(packets.TCP, 22), (packets.UDP, 123), (packets.SCTP, 2905)}


@dataclass(frozen=True)
class Outcome:
    """What one packet met: verdict, mark afterwards, the reason counted (None: nothing was), its bytes."""

    verdict: int
    mark: int
    reason: int | None
    size: int


class Bench:
    """A loaded guard and its programs by name."""

    def __init__(self, guard: Guard, paths: Paths) -> None:
        self.guard = guard
        self.paths = paths
        folder = next(paths.bpffs.glob("prog-*"))
        self.programs = {name: bpfsys.obj_get(folder / name) for name in PROGRAMS}

    def close(self) -> None:
        """Close the programs."""
        for fd in self.programs.values():
            os.close(fd)

    def program(self, direction: int, l2: bool = True) -> int:
        """Descriptor of a direction's program."""
        return self.programs[f"{DIRECTIONS[direction]}_{'l2' if l2 else 'l3'}"]

    def verdict(
        self,
        direction: int,
        packet: bytes,
        *,
        l2: bool = True,
        mark: int = 0,
        came_in: int = 0,
        ifindex: int = 0,
        linear: int = 0,
    ) -> bpfsys.TestRun:
        """One run, without looking at counters."""
        return bpfsys.prog_test_run(
            self.program(direction, l2), packet, context(mark, came_in, ifindex, linear)
        )

    def run(
        self,
        direction: int,
        packet: bytes,
        *,
        l2: bool = True,
        mark: int = 0,
        came_in: int = 0,
        ifindex: int = 0,
        linear: int = 0,
    ) -> Outcome:
        """One packet, and which counter moved."""
        before = self.guard.counters_by_direction()
        result = self.verdict(
            direction, packet, l2=l2, mark=mark, came_in=came_in, ifindex=ifindex, linear=linear
        )
        after = self.guard.counters_by_direction()
        moved = {key: after[key] for key in after if after[key] != before[key]}
        reason, size = None, 0
        for (name, label), counter in moved.items():
            assert label == DIRECTIONS[direction]
            assert counter.packets == before[name, label].packets + 1
            reason, size = BY_NAME[name], counter.bytes - before[name, label].bytes
        assert len(moved) <= 1
        return Outcome(result.verdict, mark_of(result), reason, size)


def context(mark: int = 0, came_in: int = 0, ifindex: int = 0, linear: int = 0) -> bytes:
    """struct __sk_buff for a test run; linear bytes lie in the head of the packet, 0 = all of them."""
    fields = bytearray(_CONTEXT_SIZE)
    struct.pack_into("=I", fields, _MARK_AT, mark)
    struct.pack_into("=I", fields, _INGRESS_IFINDEX_AT, came_in)
    struct.pack_into("=I", fields, _IFINDEX_AT, ifindex)
    struct.pack_into("=I", fields, _DATA_END_AT, linear)
    return bytes(fields)


def mark_of(result: bpfsys.TestRun) -> int:
    """The mark after a run."""
    return int(struct.unpack_from("=I", result.context, _MARK_AT)[0])


@contextmanager
def loaded_bench(root: Path, members_max: int = 4096) -> Iterator[Bench]:
    """A guard with the fleet of the tables, in a bpf file system of its own."""
    with bpf_filesystem(root) as paths:
        guard = Guard(paths, LISTEN_PORT, members_max, PYTHON)
        guard.ensure_loaded()
        guard.set_members(FLEET)
        guard.set_exceptions(EXCEPTIONS)
        bench = Bench(guard, paths)
        try:
            yield bench
        finally:
            bench.close()
            guard.close()


# --- verdict cost --------------------------------------------------------------------------------

_SIXTY_FOUR = packets.ethernet(packets.ipv4(SELF4, STRANGER4, packets.tcp(payload=bytes(10))))
COST_CASES: dict[str, tuple[int, bytes, int]] = {
    "not a member, egress": (EGRESS, packets.ethernet(packets.ipv4(SELF4, STRANGER4, packets.tcp())), 0),
    "not a member, ingress": (INGRESS, packets.ethernet(packets.ipv4(STRANGER4, SELF4, packets.tcp())), 0),
    "tunnel packet, egress": (
        EGRESS,
        packets.ethernet(packets.ipv4(SELF4, STRICT4, packets.udp(LISTEN_PORT, LISTEN_PORT))),
        MARK,
    ),
    "tunnel packet, ingress": (
        INGRESS,
        packets.ethernet(packets.ipv4(STRICT4, SELF4, packets.udp(LISTEN_PORT, LISTEN_PORT))),
        0,
    ),
    "strict drop, egress": (EGRESS, packets.ethernet(packets.ipv4(SELF4, STRICT4, packets.tcp())), 0),
    "strict drop, ingress": (INGRESS, packets.ethernet(packets.ipv4(STRICT4, SELF4, packets.tcp())), 0),
    "not a member, IPv6 egress": (
        EGRESS,
        packets.ethernet(packets.ipv6(SELF6, STRANGER6, packets.tcp())),
        0,
    ),
    "tunnel packet, IPv6 egress": (
        EGRESS,
        packets.ethernet(packets.ipv6(SELF6, STRICT6, packets.udp(LISTEN_PORT, LISTEN_PORT))),
        MARK,
    ),
}


def verdict_costs(bench: Bench, repeat: int = 1_000_000, passes: int = 5) -> dict[str, float]:
    """Nanoseconds per packet by case, medians; the cases and an empty program alternate within a pass."""
    empty = stub.load(bpfsys.obj_get(next(bench.paths.bpffs.glob("maps-*")) / "config"))
    runs = {"empty program": (empty, b"", 0)} | {
        name: (bench.program(direction), packet, mark)
        for name, (direction, packet, mark) in COST_CASES.items()
    }
    samples: dict[str, list[int]] = {name: [] for name in runs}
    for _pass in range(passes):
        for name, (program, packet, mark) in runs.items():
            run = bpfsys.prog_test_run(program, packet or _SIXTY_FOUR, context(mark), repeat)
            samples[name].append(run.nanoseconds)
    os.close(empty)
    return {name: float(sorted(times)[len(times) // 2]) for name, times in samples.items()}
