# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds for a packet through the guard's and the firewall's programs, against an empty one."""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.report import REPO, Section, median

sys.path.insert(0, str(REPO))


def _tcp(source: int, dest: int, flags: int) -> tuple[int, bytes]:
    return 6, struct.pack("!HHIIBBHHH", source, dest, 1, 1, 0x50, flags, 1024, 0, 0) + bytes(10)


def firewall_costs(repeat: int, passes: int) -> dict[str, float]:
    """Established, denied and new flows of either family, alternating with an empty program."""
    from tests.bpf import fw_harness as fw
    from tests.bpf import packets, stub
    from tests.bpf.harness import context

    from wardmesh.datapath import bpfsys
    from wardmesh.datapath.contract import EGRESS, INGRESS

    with tempfile.TemporaryDirectory() as name, fw.loaded_firewall(Path(name)) as bench:
        empty = stub.load(bench.firewall._map("state"))
        four = packets.ethernet(packets.ipv4(fw.FRIEND4, fw.SELF4, _tcp(4000, 80, 0x10)))
        six = packets.ethernet(packets.ipv6(fw.FRIEND6, fw.SELF6, _tcp(4000, 80, 0x10)))
        for write, friend, own in (
            (packets.ipv4, fw.FRIEND4, fw.SELF4),
            (packets.ipv6, fw.FRIEND6, fw.SELF6),
        ):
            assert bench.passes(INGRESS, packets.ethernet(write(friend, own, _tcp(4000, 80, 2))))
            assert bench.passes(EGRESS, packets.ethernet(write(own, friend, _tcp(80, 4000, 0x12))))
        denied = packets.ethernet(packets.ipv4(fw.FOE4, fw.SELF4, _tcp(4000, 80, 2)))
        program = bench.program(INGRESS)
        runs = {
            "empty program": (empty, four),
            "established, IPv4": (program, four),
            "established, IPv6": (program, six),
            "denied, known identity": (program, denied),
        }
        samples: dict[str, list[float]] = {case: [] for case in [*runs, "new flow, allowed"]}
        for _pass in range(passes):
            for case, (which, packet) in runs.items():
                samples[case].append(bpfsys.prog_test_run(which, packet, context(), repeat).nanoseconds)
            samples["new flow, allowed"].append(_new_flows(program, min(repeat, 20_000)))
        os.close(empty)
    return {case: median(found) for case, found in samples.items()}


def _new_flows(program: int, count: int) -> float:
    """Each packet opens a flow of its own; a run's own time, one packet to a run."""
    from tests.bpf import fw_harness as fw
    from tests.bpf import packets
    from tests.bpf.harness import context

    from wardmesh.datapath import bpfsys

    times = []
    for number in range(count):
        packet = packets.ethernet(packets.ipv4(fw.FRIEND4, fw.SELF4, _tcp(4001 + number % 60000, 80, 2)))
        times.append(bpfsys.prog_test_run(program, packet, context()).nanoseconds)
    return median([float(value) for value in times])


def run(say: Callable[[str], None], repeat: int = 1_000_000, passes: int = 5) -> Section:
    """Both programs in namespaces of their own."""
    from tests.bpf.harness import loaded_bench, verdict_costs
    from tests.bpf.netns import Namespace

    namespace = Namespace()
    try:
        with namespace.entered(), tempfile.TemporaryDirectory() as name:
            say("the guard")
            with loaded_bench(Path(name)) as bench:
                guard = verdict_costs(bench, repeat, passes)
            say("the firewall")
            firewall = firewall_costs(repeat, passes)
    finally:
        namespace.close()
    section = Section(
        "Verdicts",
        f"BPF_PROG_TEST_RUN of one packet, {repeat} times, medians of {passes} passes, in each of "
        f"which all cases run. "
        "A new flow is one packet to a run, which adds the call's own cost. `make bench PART=verdict`",
        ("program", "case", "ns", "to empty"),
    )
    for title, costs in (("guard", guard), ("firewall", firewall)):
        for case, cost in costs.items():
            section.rows.append((title, case, f"{cost:.0f}", f"{cost / costs['empty program']:.1f}"))
    section.judge(
        "established to an empty program", firewall["established, IPv4"] / firewall["empty program"], 2.5
    )
    section.judge(
        "denied to an empty program", firewall["denied, known identity"] / firewall["empty program"], 8
    )
    return section
