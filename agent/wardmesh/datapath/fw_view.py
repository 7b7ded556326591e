# SPDX-License-Identifier: Apache-2.0
"""What the firewall's pinned maps hold, read from the kernel and not from the agent's memory."""

from __future__ import annotations

import ipaddress
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wardmesh.datapath import bpfsys, ticks
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import DIRECTIONS, ROW, MapSpec, Network
from wardmesh.datapath.flow_table import FlowTable, slots_taken
from wardmesh.datapath.pinned import PinnedMaps
from wardmesh.datapath.ticks import seconds_until
from wardmesh.model.fleetmap import Address

CELLS = {fw.NO_RULE: "None", fw.ALLOW: "Allow", fw.DENY: "Deny", fw.AUDIT: "Audit"}
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
WORLD = {fw.ROW_WORLD4: "world-ipv4", fw.ROW_WORLD6: "world-ipv6"}
_TABLES = ("TCP", "UDP", "SCTP")
_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_WORLDS: dict[int, Network] = {
    fw.ROW_WORLD4: ipaddress.ip_network("0.0.0.0/0"),
    fw.ROW_WORLD6: ipaddress.ip_network("::/0"),
}


@dataclass(frozen=True)
class PolicyLine:
    """What one group of peers meets at one range of ports. peers: identities, or a name of the world."""

    verdict: str
    direction: str
    peers: tuple[str, ...]
    ports: str
    flows: int


@dataclass(frozen=True)
class Judged:
    """How many flows one row decided for one class of ports: what no rule tells apart is counted together.

    row: its number; networks: whose row it is, where those of length 0 stand for everybody else.
    protocol, port: one of the class (of ICMP a type); 0 and 0 where only what has no ports is in it.
    """

    direction: str
    row: int
    networks: tuple[Network, ...]
    protocol: int
    port: int
    flows: int


@dataclass(frozen=True)
class FlowLine:
    """One connection, as its entry stands; expires in seconds, packets and bytes there and back."""

    protocol: str
    direction: str
    remote: str
    local: str
    expires: int
    packets: tuple[int, int]
    bytes: tuple[int, int]
    identity: int
    flags: tuple[str, ...]
    verdict: str


class PinnedFirewall(PinnedMaps):
    """The firewall's pinned maps of one contract."""

    def __init__(self, folder: Path, specs: tuple[MapSpec, ...], rows_max: int) -> None:
        super().__init__(folder, specs, "firewall")
        self._rows_max = rows_max

    # --- peers and policy ---

    def peers(self) -> dict[Network, tuple[int, int]]:
        """Identity and row by network."""
        return fw.read_peers(self.items)

    def policy(self) -> list[PolicyLine]:
        """Every range of ports that some rule decides about, for each group of peers."""
        generation = self.generation()
        half = generation & 1
        groups: dict[int, set[str]] = {row: {name} for row, name in WORLD.items()}
        for identity, row in self.peers().values():
            groups.setdefault(row, set()).add(str(identity))
        judged = self._counts(generation)
        pieces = self.items("classes")
        lines: list[PolicyLine] = []
        for direction, label in DIRECTIONS.items():
            runs = _runs(pieces, half, direction)
            for row, names in sorted(groups.items()):
                slot = fw.row_slot(half, direction, row, self._rows_max)
                cells = bpfsys.map_lookup(self.maps["rows"], ROW.pack(slot), fw.ROW_BYTES)
                if cells is None:
                    continue
                flows = {
                    place: n for (way, place, peer), n in judged.items() if (way, peer) == (direction, row)
                }
                lines += _lines(runs, int.from_bytes(cells, "little"), flows, label, tuple(sorted(names)))
        return lines

    def state(self) -> tuple[int, int, int, int]:
        """Generation, flags, seed and failsafe (fw.STATE) of the policy in force."""
        raw = bpfsys.map_lookup(self.maps["state"], ROW.pack(0), fw.STATE.size) or bytes(fw.STATE.size)
        generation, flags, seed, failsafe = fw.STATE.unpack(raw)
        return int(generation), int(flags), int(seed), int(failsafe)

    def generation(self) -> int:
        """Of the policy in force; 0: none was ever set."""
        return self.state()[0]

    def _counts(self, generation: int) -> Counter[tuple[int, int, int]]:
        """New flows that this generation's cells decided about, by (direction, class, row)."""
        found: Counter[tuple[int, int, int]] = Counter()
        for key, value in self.items("judged").items():
            way, half, place, row = fw.JUDGED_KEY.unpack(key)
            if half == generation & 1:
                found[way, place, row] += int.from_bytes(value, "little")
        for value in self.items("recent").values():
            for way, _half, place, row, count, of in fw.RECENT.iter_unpack(value):
                if of == generation:
                    found[way, place, row] += count
        return found

    def judged(self) -> list[Judged]:
        """What the policy in force has decided since it is in force, each flow in one of them."""
        generation = self.generation()
        rows: dict[int, list[Network]] = {row: [network] for row, network in _WORLDS.items()}
        for network, (_identity, row) in self.peers().items():
            rows.setdefault(row, []).append(network)
        counts, pieces = self._counts(generation), self.items("classes")
        places: dict[tuple[int, int], tuple[int, int]] = {}
        for direction in DIRECTIONS:
            for protocol, first, _last, number in _runs(pieces, generation & 1, direction):
                places.setdefault((direction, number), (_NUMBERS[protocol], first))
        owners = {row: tuple(networks) for row, networks in rows.items()}  # one object for all its classes
        return [
            Judged(DIRECTIONS[way], row, owners[row], *places.get((way, number), (0, 0)), flows=count)
            for (way, number, row), count in sorted(counts.items())
            if row in owners
        ]

    # --- connections ---

    def flows(self) -> Iterator[FlowLine]:
        """Every connection whose time is not over."""
        for family, key_struct in ((4, fw.FLOW4_KEY), (6, fw.FLOW6_KEY)):
            with self._table(family) as table:
                for slot in table.slots():
                    remote, local, rport, lport, protocol = key_struct.unpack(slot.key)
                    line = _flow(
                        (ipaddress.ip_address(remote), int.from_bytes(rport, "big")),
                        (ipaddress.ip_address(local), int.from_bytes(lport, "big")),
                        int(protocol),
                        slot.flow,
                    )
                    if line.expires >= 0:
                        yield line

    def _table(self, family: int) -> FlowTable:
        return FlowTable(self.maps[f"flows{family}"], family, slots_taken(self.maps["taken"], family))

    def sizes(self) -> list[tuple[str, int, int]]:
        """Name, entries that are there, entries that fit; of the tables of flows, flows."""
        held, now = {}, ticks.now()
        for family in (4, 6):
            with self._table(family) as table:
                held[f"flows{family}"] = table.live(now)
        return [(name, held.get(name, used), room) for name, used, room in super().sizes()]


def _runs(pieces: Mapping[bytes, bytes], half: int, direction: int) -> list[tuple[str, int, int, int]]:
    """(protocol, first, last, class) of a direction; what no rule tells apart is class 0."""
    found: list[tuple[str, int, int, int]] = []
    for table in range(fw.CLASS_TABLES):
        slot = fw.class_slot(half, direction, table)
        cells = array("H", b"".join(pieces[ROW.pack(slot + piece)] for piece in range(fw.CLASS_PIECES)))
        for protocol, start, end in _spans(table):
            first = start
            for place in range(start + 1, end + 1):
                if place == end or cells[place] != cells[first]:
                    found.append((protocol, first - start, place - 1 - start, cells[first]))
                    first = place
    return found


def _spans(table: int) -> list[tuple[str, int, int]]:
    """What the places of a class table stand for: name, first place, place behind the last."""
    if table < len(_TABLES):
        return [(_TABLES[table], 0, fw.PORTS)]
    return [("ICMP", fw.CLASS_ICMP, fw.CLASS_ICMP6), ("ICMPv6", fw.CLASS_ICMP6, fw.CLASS_PROTOCOL)]


def _lines(
    runs: list[tuple[str, int, int, int]],
    cells: int,
    flows: Mapping[int, int],
    direction: str,
    peers: tuple[str, ...],
) -> Iterator[PolicyLine]:
    """Neighbouring ranges with one verdict are one line; ports that no rule decides about are left out."""
    merged: list[tuple[str, int, int, int, set[int]]] = []
    for protocol, first, last, number in runs:
        cell = cells >> 2 * number & 3
        before = merged[-1] if merged else None
        if before and before[0] == protocol and before[3] == cell and before[2] == first - 1:
            merged[-1] = (protocol, before[1], last, cell, before[4] | {number})
        else:
            merged.append((protocol, first, last, cell, {number}))
    for protocol, first, last, cell, numbers in merged:
        if cell != fw.NO_RULE:
            whole = first == 0 and last >= (255 if protocol.startswith("ICMP") else fw.PORTS - 1)
            ports = "ANY" if whole else str(first) if first == last else f"{first}-{last}"
            count = sum(flows.get(number, 0) for number in numbers)
            yield PolicyLine(CELLS[cell], direction, peers, f"{ports}/{protocol}", count)


def _flow(remote: tuple[Address, int], local: tuple[Address, int], protocol: int, value: bytes) -> FlowLine:
    _generation, _class, cell, way, sent, received, packets, back, identity, _row, expires, state = (
        fw.FLOW.unpack(value)
    )
    flags = {fw.FLOW_REPLIED: "answered", fw.FLOW_CLOSING: "closing", fw.FLOW_FAILSAFE: "failsafe"}
    return FlowLine(
        PROTOCOLS.get(protocol, str(protocol)),
        DIRECTIONS.get(way, str(way)),
        _end(*remote),
        _end(*local),
        seconds_until(expires),
        (packets, back),
        (sent, received),
        identity,
        tuple(name for bit, name in flags.items() if state & bit),
        CELLS[cell],
    )


def _end(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
