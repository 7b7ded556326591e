# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds for a packet through the firewall, as identities, rules and flows grow; and a flood."""

from __future__ import annotations

import ipaddress
import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import REPO, Section, median

sys.path.insert(0, str(REPO))

if TYPE_CHECKING:
    from tests.bpf.driver import Driver

SIZES = ((10, 10), (1_000, 1_000), (100_000, 10_000))  # identities, rules
PORTS = 1_000  # classes of ports: rules beyond share them among groups of peers
MANY = 1 << 16
LEAP = 40_503  # from one packet's port to the next one's, when flows do not come in the order they began in
FLOWS_MAX = 131_072
FEW = 16_000  # new flows of a run; their events fit into the ring
OWN = {4: "10.0.0.1", 6: "fd00::1"}
OBJECT = "WARDMESH_BENCH_OBJECT"  # a tc program for bpftool, measured beside ours


def tcp(source: int, dest: int, flags: int) -> tuple[int, bytes]:
    """A segment of 64 bytes with its IPv4 header and ten bytes of payload."""
    return 6, struct.pack("!HHIIBBHHH", source, dest, 1, 1, 0x50, flags, 1024, 0, 0) + bytes(10)


@dataclass(frozen=True)
class Size:
    """So many peers and rules. Peers count on from 10.1.0.0 and fd01::; nothing is open to the last one."""

    identities: int
    rules: int

    def friend(self, family: int) -> str:
        """A peer that port 2001 is open to."""
        return "10.1.0.0" if family == 4 else "fd01::"

    def newcomer(self, family: int) -> str:
        """Another one, of whom no flow is known."""
        return "10.1.0.1" if family == 4 else "fd01::1"

    def foe(self, family: int) -> str:
        """A peer that no rule names."""
        base = int(ipaddress.ip_address(self.friend(family)))
        kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
        return str(kind(base + self.identities // 2 - 1))


def _tables(size: Size) -> object:
    """rules openings of TCP and UDP, each of a port class for a group; half of the peers are IPv6."""
    from wardmesh.datapath import fw_contract as fw
    from wardmesh.datapath.fw_tables import Peer, PolicyTables, class_table, row_of

    ports = min(PORTS, size.rules)
    groups = max(1, min(size.rules // ports, 1_000))
    classes = class_table((2_000 + port, 2_000 + port, port + 1) for port in range(ports))
    cells = [
        row_of([0, *[fw.ALLOW if port == 1 or (port + n) % 3 else 0 for port in range(ports)]])
        for n in range(groups)
    ]
    nothing = row_of([0])
    peers = {}
    for number in range(size.identities // 2):
        last = number == size.identities // 2 - 1
        row = nothing if last else cells[number % groups]
        for base in ("10.1.0.0", "fd01::"):
            address = ipaddress.ip_address(base)
            network = ipaddress.ip_network(type(address)(int(address) + number))
            peers[network] = Peer(70_000 + number, (row, row))
    empty = class_table([])
    return PolicyTables(
        (classes, classes, empty, empty) * 2, peers, (nothing, nothing), (nothing, nothing), True
    )


def _given() -> dict[str, int]:
    """A program that the environment names, by its file: another firewall, beside ours."""
    from wardmesh.datapath import bpfsys

    path = os.environ.get(OBJECT)
    if not path:
        return {}
    with tempfile.TemporaryDirectory(dir="/sys/fs/bpf") as folder:
        pin = Path(folder) / "given"
        subprocess.run(["bpftool", "prog", "load", path, str(pin), "type", "classifier"], check=True)
        found = bpfsys.obj_get(pin)
        pin.unlink()
    return {Path(path).name: found}


@contextmanager
def loaded(size: Size) -> Iterator[object]:
    """The real programs with a policy of this size, in a namespace of their own."""
    from tests.bpf.harness import PYTHON, bpf_filesystem
    from tests.bpf.netns import Namespace

    from wardmesh.datapath.firewall import Firewall

    namespace = Namespace()
    try:
        with namespace.entered(), tempfile.TemporaryDirectory() as name, bpf_filesystem(Path(name)) as paths:
            wall = Firewall(paths, 131_072, 4_096, FLOWS_MAX, PYTHON)
            wall.ensure_loaded()
            wall.set_ports(51871)
            wall.set_policy(_tables(size))  # type: ignore[arg-type]
            yield wall
            wall.close()
    finally:
        namespace.close()


class Runs:
    """Test runs of one loaded firewall."""

    def __init__(self, wall: object, size: Size) -> None:
        from tests.bpf import packets, stub
        from tests.bpf.driver import DEST_PORT, SOURCE_PORT, Driver, parse_only

        from wardmesh.datapath import bpfsys
        from wardmesh.datapath import fw_contract as fw

        self._bpf, self._fw, self._packets, self._size, self._wall = bpfsys, fw, packets, size, wall
        folder = wall.folder  # type: ignore[attr-defined]
        self.programs = {way: bpfsys.obj_get(folder / f"{way}_l2") for way in ("ingress", "egress")}
        self.empty = stub.load(self._map("state"))
        self.others = {"parse only": parse_only(), **_given()}
        self.drivers = {family: Driver(SOURCE_PORT[family]) for family in (4, 6)}
        self.leapers = {family: Driver(SOURCE_PORT[family], LEAP) for family in (4, 6)}
        self.answerers = {family: Driver(DEST_PORT[family]) for family in (4, 6)}

    def close(self) -> None:
        """Close everything that was opened here."""
        for fd in (*self.programs.values(), *self.others.values(), self.empty):
            os.close(fd)
        for driver in (*self.drivers.values(), *self.leapers.values(), *self.answerers.values()):
            driver.close()

    def _map(self, name: str) -> int:
        return int(self._wall._map(name))  # type: ignore[attr-defined]

    def frame(self, family: int, way: str, peer: str, flags: int, port: int = 4_000) -> bytes:
        """A frame between the peer's port and our 2001; a SYN that we send goes to the peer's 2001."""
        own = OWN[family]
        write = self._packets.ipv4 if family == 4 else self._packets.ipv6
        if way == "ingress":
            return self._packets.ethernet(write(peer, own, tcp(port, 2_001, flags)))
        ends = (port, 2_001) if flags == 2 else (2_001, port)
        return self._packets.ethernet(write(own, peer, tcp(*ends, flags)))

    def time(self, program: int, frame: bytes, repeat: int) -> float:
        """Nanoseconds of a run, the mean."""
        from tests.bpf.harness import context

        return float(self._bpf.prog_test_run(program, frame, context(), repeat).nanoseconds)

    def more(self, driver: Driver, program: int, frame: bytes, count: int) -> float:
        """Nanoseconds of a packet in this program, beyond those in an empty one; each has another port."""
        bare = self.time(driver.point(self.empty), frame, count)
        return self.time(driver.point(program), frame, count) - bare

    def answer(self, family: int) -> None:
        """A flow of the friend from each port, opened and answered."""
        friend = self._size.friend(family)
        opening = self.frame(family, "ingress", friend, 2)
        self.time(self.drivers[family].point(self.programs["ingress"]), opening, MANY)
        answer = self.frame(family, "egress", friend, 0x12)
        self.time(self.answerers[family].point(self.programs["egress"]), answer, MANY)

    def forget(self) -> None:
        """Empty the tables of flows."""
        for spec in self._fw.map_specs(131_072, 4_096, FLOWS_MAX):
            if spec.name in ("heads4", "heads6", "flows4", "flows6"):
                with mmap.mmap(self._map(spec.name), spec.max_entries * spec.value_size) as memory:
                    memory[:] = bytes(len(memory))
        for row in range(len(self._fw.FLOW_TABLES)):
            self._taken(row, 0)

    def age(self) -> None:
        """The IPv4 table as after months: each place is held by somebody whose time is over, in any order."""
        fw, slots, chance = self._fw, 1 << self._fw.flow_bits(FLOWS_MAX)[0], random.Random(1)
        self.forget()
        bits = 32 - slots.bit_length() + 1  # of a tag, of which the third says that it is one
        holds = [
            number << bits | chance.getrandbits(bits - 3) << 3 | 4 | fw.TAG_SETTLED for number in range(slots)
        ]
        chance.shuffle(holds)
        nobody = bytes(fw.HEAD.size - 4 * fw.WAYS)
        heads = (struct.pack(f"={fw.WAYS}I", *holds[at : at + fw.WAYS]) for at in range(0, slots, fw.WAYS))
        with mmap.mmap(self._map("heads4"), slots // fw.WAYS * fw.HEAD.size) as memory:
            memory[:] = b"".join(head + nobody for head in heads)
        self._taken(0, slots)

    def _taken(self, row: int, slots: int) -> None:
        self._bpf.map_update(self._map("taken"), struct.pack("=I", row), self._fw.TAKEN.pack(slots))

    def told(self, family: int, frame: bytes, count: int) -> float:
        """Nanoseconds of a run of different packets, each of which is told of."""
        from wardmesh.datapath.event_ring import EventRing, watch

        ring = EventRing(self._map("events"), self._fw.EVENTS_BYTES)
        while ring.read(MANY):
            pass
        watch(self._map("watch"), told=True, drops=1 << 30)
        spent = self.time(self.drivers[family].point(self.programs["ingress"]), frame, count)
        watch(self._map("watch"), told=False)
        events = len(ring.read(MANY))
        ring.close()
        if events < count:
            raise RuntimeError(f"{events} events of {count} packets")
        return spent

    def flows_of(self, peer: str) -> tuple[int, int]:
        """Answered flows of an IPv4 peer, and those that were not."""
        from wardmesh.datapath.flow_table import FlowTable, slots_taken

        packed = ipaddress.ip_address(peer).packed
        with FlowTable(self._map("flows4"), 4, slots_taken(self._map("taken"), 4)) as table:
            states = [self._fw.FLOW.unpack(slot.flow)[11] for slot in table.slots() if slot.key[:4] == packed]
        found = [bool(state & self._fw.FLOW_REPLIED) for state in states]
        return sum(found), len(found) - sum(found)


def _costs(runs: Runs, size: Size, repeat: int, passes: int) -> dict[str, float]:
    """Each case in each pass; the driver's own cost is taken off, an empty program's put on."""
    samples: dict[str, list[float]] = {}

    def note(case: str, value: float) -> None:
        samples.setdefault(case, []).append(value)

    for _pass in range(passes):
        plain = runs.frame(4, "ingress", size.friend(4), 0x10)
        base = runs.time(runs.empty, plain, repeat)
        note("empty program", base)
        runs.forget()
        for family in (4, 6):
            runs.answer(family)
        for name, program in runs.others.items():
            note(name, runs.time(program, plain, repeat))
        for family in (4, 6):
            friend, foe, driver = size.friend(family), size.foe(family), runs.drivers[family]
            for way, program in runs.programs.items():
                label = f"IPv{family} {way}"
                # Of several flows, because one of a few lies in its second set.
                ports = range(4_000, 4_005)
                frames = [runs.frame(family, way, friend, 0x10, port) for port in ports]
                note(f"established, {label}", median([runs.time(program, f, repeat // 5) for f in frames]))
                note(f"denied, {label}", runs.time(program, runs.frame(family, way, foe, 2), repeat))
            _note_many(runs, size, family, base, note)
            for way, program in runs.programs.items():
                syn = runs.frame(family, way, size.newcomer(family), 2)
                note(f"new, allowed, IPv{family} {way}", runs.more(driver, program, syn, FEW) + base)
        for family in (4, 6):
            _note_told(runs, size, family, base, note)
        _note_aged(runs, size, base, note)
    return {case: median(found) for case, found in samples.items()}


def _note_many(runs: Runs, size: Size, family: int, base: float, note: Callable[[str, float], None]) -> None:
    """Packets of answered flows in turn, in the order in which these began and in another one."""
    drivers = {"ingress": runs.drivers[family], "egress": runs.answerers[family]}
    for way, driver in drivers.items():
        frame = runs.frame(family, way, size.friend(family), 0x10)
        spent = runs.more(driver, runs.programs[way], frame, MANY)
        note(f"established, 64k flows, IPv{family} {way}", spent + base)
    frame = runs.frame(family, "ingress", size.friend(family), 0x10)
    spent = runs.more(runs.leapers[family], runs.programs["ingress"], frame, MANY)
    note(f"the same in another order, IPv{family} ingress", spent + base)


def _note_aged(runs: Runs, size: Size, base: float, note: Callable[[str, float], None]) -> None:
    """Flows on a host that runs for long."""
    driver, program = runs.drivers[4], runs.programs["ingress"]
    runs.age()
    runs.answer(4)
    frame = runs.frame(4, "ingress", size.friend(4), 0x10)
    spent = runs.more(driver, program, frame, MANY)
    note("established, 64k flows, each slot was used before, IPv4 ingress", spent + base)
    syn = runs.frame(4, "ingress", size.newcomer(4), 2)
    note("new, allowed, each slot was used before, IPv4 ingress", runs.more(driver, program, syn, FEW) + base)


def _note_told(runs: Runs, size: Size, family: int, base: float, note: Callable[[str, float], None]) -> None:
    """What an event adds to a new flow, and to a packet that is dropped."""
    driver, program = runs.drivers[family], runs.programs["ingress"]
    syn, foe = (runs.frame(family, "ingress", peer, 2) for peer in (size.newcomer(family), size.foe(family)))
    runs.forget()
    bare = runs.time(driver.point(runs.empty), syn, FEW)
    note(f"new, allowed, with its event, IPv{family} ingress", runs.told(family, syn, FEW) - bare + base)
    silent = runs.time(driver.point(program), foe, FEW)
    note(f"denied, one after another, IPv{family} ingress", silent - bare + base)
    note(f"denied, with its event, IPv{family} ingress", runs.told(family, foe, FEW) - bare + base)


def _flood(runs: Runs, size: Size) -> list[tuple[str, str]]:
    """A million SYNs of one that may and of one that may not, past flows that were answered."""
    runs.forget()
    runs.answer(4)
    before = runs.flows_of(size.friend(4))[0]
    driver = runs.drivers[4]
    rows = []
    for name, peer in (("allowed", size.newcomer(4)), ("denied", size.foe(4))):
        started = time.monotonic()
        runs.time(driver.point(runs.programs["ingress"]), runs.frame(4, "ingress", peer, 2, 1), 1_000_000)
        seconds = time.monotonic() - started
        rows.append(
            (f"1,000,000 SYNs from {name}: packets each second, one core", f"{1_000_000 / seconds:,.0f}")
        )
        left = runs.flows_of(size.friend(4))[0]
        rows.append((f"answered flows left after it, of {before:,}", f"{left:,}"))
    rows.append(("flows of the denied one", f"{sum(runs.flows_of(size.foe(4))):,}"))
    return rows


def run(say: Callable[[str], None], repeat: int = 500_000, passes: int = 5) -> Section:
    """Every size in a namespace of its own."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    flood: list[tuple[str, str]] = []
    for identities, rules in SIZES:
        say(f"{identities:,} identities, {rules:,} rules")
        size = Size(identities, rules)
        with loaded(size) as wall:
            runs = Runs(wall, size)
            try:
                found[identities, rules] = _costs(runs, size, repeat, passes)
                if identities == 1_000:
                    say("a flood of new connections")
                    flood = _flood(runs, size)
            finally:
                runs.close()
    section = Section(
        "The firewall's verdicts",
        f"BPF_PROG_TEST_RUN of a TCP packet of 64 bytes, {repeat:,} times ({MANY:,} flows: once each; new "
        f"ones: {FEW:,}), medians of {passes} passes in each of which all cases run, in ns; in brackets the "
        "ratio to an empty program in the same pass. Where packets differ, a driver of 24 instructions gives "
        "each another source port, the next one or one far away; its own cost is measured with the empty "
        "program and taken off. "
        f"`make bench PART=firewall`; {OBJECT}=FILE measures a tc program of another firewall beside it.",
        ("case", *(f"{i:,} identities, {r:,} rules" for i, r in SIZES)),
    )
    for case in found[SIZES[0]]:
        cells = [f"{one[case]:.0f} ({one[case] / one['empty program']:.1f})" for one in found.values()]
        section.rows.append((case, *cells))
    section.rows += [(what, "", figure, "") for what, figure in flood]
    _judge(section, found)
    return section


def _judge(section: Section, found: dict[tuple[int, int], dict[str, float]]) -> None:
    large, small = found[SIZES[-1]], found[SIZES[0]]
    known, base = "established, IPv4 ingress", large["empty program"]
    section.judge("established to an empty program", large[known] / base, 2.5)
    growth = large[known] / base / (small[known] / small["empty program"])
    section.judge("its growth from 10 to 100,000 identities", growth, 1.1)
    section.judge(
        "established with 64k flows to an empty program",
        large["established, 64k flows, IPv4 ingress"] / base,
        9,
    )
    section.judge(
        "new, allowed, with its event, to an empty program",
        large["new, allowed, with its event, IPv4 ingress"] / base,
        20,
    )
    told = large["denied, with its event, IPv4 ingress"]
    section.judge("denied, with its event, to an empty program", told / base, 8)
    section.judge("an event, ns", told - large["denied, one after another, IPv4 ingress"], 40)
