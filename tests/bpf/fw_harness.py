# SPDX-License-Identifier: Apache-2.0
"""The firewall's real programs under BPF_PROG_TEST_RUN, with policies written as a table of openings."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bpf.harness import LISTEN_PORT, PYTHON, bpf_filesystem, context, network

from wardmesh.datapath import bpfsys
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import DIRECTIONS, EGRESS, INGRESS, ROW, MapSpec, Network
from wardmesh.datapath.firewall import Firewall
from wardmesh.datapath.flow_table import FlowTable, Slot, slots_taken
from wardmesh.datapath.fw_tables import Cells, Peer, PolicyTables, class_table, row_of

PASS, DROP = -1, 2
SELF4, FRIEND4, FOE4, NET4, STRANGER4 = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.8.7", "192.0.2.9"
SELF6, FRIEND6, FOE6, NET6, STRANGER6 = "fd00::1", "fd00::2", "fd00::3", "fd09::7", "2001:db8::9"

# Classes: 0 anything else, 1 TCP 80, 2 UDP 53, 3 echo, 4 SCTP 3868, 5 port unknown, 6 TCP 1000-2000.
_TCP = class_table([(80, 80, 1), (1000, 2000, 6)])
_UDP = class_table([(53, 53, 2)])
_SCTP = class_table([(3868, 3868, 4)])
_OTHERS = class_table([(8, 8, 3), (256 + 128, 256 + 128, 3), (512 + 6, 512 + 6, 5), (512 + 17, 512 + 17, 5)])
CLASSES = (_TCP, _UDP, _SCTP, _OTHERS) * 2
NOTHING = (0, 0, 0, 0, 0, 0, 0)
OPEN = (0, 1, 1, 1, 1, 0, 1)  # the friend: web, DNS, ping, diameter, the range
FORBIDDEN = (2, 2, 2, 2, 2, 2, 2)
AUDITED = (3, 3, 3, 3, 3, 3, 3)


FAILSAFE = frozenset({(INGRESS, 6, 22), (EGRESS, 17, 123)})


def cells(ingress: tuple[int, ...], egress: tuple[int, ...]) -> Cells:
    """A row for each direction."""
    return row_of(ingress), row_of(egress)


def tables(peers: Mapping[str, Cells], world: Cells, enforced: bool = True) -> PolicyTables:
    """A policy from addresses or networks to cells."""
    named: dict[Network, Peer] = {
        network(text): Peer(1000 + place, held) for place, (text, held) in enumerate(peers.items())
    }
    return PolicyTables(CLASSES, named, world, world, enforced)


BOTH = {FRIEND4: cells(OPEN, OPEN), FRIEND6: cells(OPEN, OPEN)}
POLICY = tables(
    {
        **BOTH,
        FOE4: cells(FORBIDDEN, FORBIDDEN),
        FOE6: cells(FORBIDDEN, FORBIDDEN),
        "10.9.0.0/16": cells(OPEN, NOTHING),
        "fd09::/64": cells(OPEN, NOTHING),
    },
    cells(NOTHING, NOTHING),
)


@dataclass(frozen=True)
class Verdict:
    """Passed or dropped, and the reasons that were counted."""

    passed: bool
    reasons: tuple[str, ...]


class FirewallBench:
    """A loaded firewall with its programs."""

    def __init__(self, firewall: Firewall, specs: tuple[MapSpec, ...]) -> None:
        self.firewall = firewall
        self.specs = specs
        (slots,) = (spec.max_entries for spec in specs if spec.name == "flows4")
        self.tag_bits = 32 - (slots - 1).bit_length()  # of a holder; the rest of it is a slot's number
        self.programs = {name: bpfsys.obj_get(firewall.folder / name) for name in fw.PROGRAMS}

    def close(self) -> None:
        """Close the programs."""
        for fd in self.programs.values():
            os.close(fd)

    def program(self, direction: int, l2: bool = True) -> int:
        """Descriptor of a direction's program."""
        return self.programs[f"{DIRECTIONS[direction]}_{'l2' if l2 else 'l3'}"]

    def passes(
        self, direction: int, packet: bytes, *, l2: bool = True, mark: int = 0, came_in: int = 0
    ) -> bool:
        """One packet."""
        run = bpfsys.prog_test_run(self.program(direction, l2), packet, context(mark, came_in))
        assert run.verdict in (PASS, DROP)
        return run.verdict == PASS

    def run(self, direction: int, packet: bytes) -> Verdict:
        """One packet, and what was counted."""
        before = self.firewall.counters()
        passed = self.passes(direction, packet)
        after = self.firewall.counters()
        return Verdict(passed, tuple(name for (name, way) in after if after[name, way] != before[name, way]))

    def forget_flows(self) -> None:
        """Drop every flow and fragment that is known."""
        for name in ("heads4", "heads6", "flows4", "flows6"):
            with self.memory(name) as memory:
                memory[:] = bytes(len(memory))
        for row in range(len(fw.FLOW_TABLES)):
            bpfsys.map_update(self.firewall._map("taken"), ROW.pack(row), bytes(fw.TAKEN.size))
        fd = self.firewall._map("fragments")
        bpfsys.map_delete_many(fd, bpfsys.map_items(fd, fw.FRAGMENT_KEY.size, 4))

    @contextmanager
    def memory(self, name: str) -> Iterator[mmap.mmap]:
        """The memory of a map of the table of flows, to be written."""
        (spec,) = (spec for spec in self.specs if spec.name == name)
        with mmap.mmap(self.firewall._map(name), spec.max_entries * spec.value_size) as memory:
            yield memory

    def table(self, family: int) -> FlowTable:
        """The table of flows as it is now."""
        taken = slots_taken(self.firewall._map("taken"), family)
        return FlowTable(self.firewall._map(f"flows{family}"), family, taken)

    def slots(self, family: int) -> list[Slot]:
        """Every flow of a family that is known."""
        with self.table(family) as table:
            return list(table.slots())

    def flows(self) -> int:
        """How many flows are known."""
        return len(self.slots(4)) + len(self.slots(6))


@contextmanager
def loaded_firewall(root: Path, rows_max: int = 256, flows_max: int = 65536) -> Iterator[FirewallBench]:
    """A firewall with POLICY, in a bpf file system of its own."""
    with bpf_filesystem(root) as paths:
        firewall = Firewall(paths, 4096, rows_max, flows_max, PYTHON)
        firewall.ensure_loaded()
        firewall.set_ports(LISTEN_PORT)
        firewall.set_failsafe(FAILSAFE)
        firewall.set_policy(POLICY)
        bench = FirewallBench(firewall, fw.map_specs(4096, rows_max, flows_max))
        try:
            yield bench
        finally:
            bench.close()
            firewall.close()
