# SPDX-License-Identifier: Apache-2.0
"""The policy that the firewall's maps hold now, in the form in which it was compiled: to compare the two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from wardmesh.datapath import bpfsys
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.contract import DIRECTIONS, EGRESS, INGRESS, ROW
from wardmesh.datapath.fw_tables import Cells, Peer, PolicyTables
from wardmesh.datapath.fw_view import PinnedFirewall

_TABLES = ("TCP", "UDP", "SCTP", "others")
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
Failsafe = tuple[int, int, int]  # direction, protocol, port


@dataclass(frozen=True)
class Settings:
    """What counts beside the tables. failsafe: for everybody; members: for members only."""

    audit: bool
    port: int
    failsafe: frozenset[Failsafe]
    members: frozenset[Failsafe]


def read_held(wall: PinnedFirewall, rows_max: int) -> tuple[PolicyTables, Settings]:
    """Tables and settings in force."""
    generation, flags, _seed, failsafe = wall.state()
    half = generation & 1
    known: dict[int, Cells] = {}

    def cells(row: int) -> Cells:
        if row not in known:
            ingress, egress = (_row(wall, fw.row_slot(half, way, row, rows_max)) for way in DIRECTIONS)
            known[row] = (ingress, egress)
        return known[row]

    peers = {network: Peer(identity, cells(row)) for network, (identity, row) in wall.peers().items()}
    tables = PolicyTables(
        _classes(wall, half),
        peers,
        cells(fw.ROW_WORLD4),
        cells(fw.ROW_WORLD6),
        bool(flags & fw.STATE_ENFORCE),
    )
    return tables, _settings(wall, failsafe, audit=bool(flags & fw.STATE_AUDIT))


def _row(wall: PinnedFirewall, slot: int) -> bytes:
    return bpfsys.map_lookup(wall.maps["rows"], ROW.pack(slot), fw.ROW_BYTES) or bytes(fw.ROW_BYTES)


def _classes(wall: PinnedFirewall, half: int) -> tuple[bytes, ...]:
    pieces = wall.items("classes")
    found = []
    for direction in (INGRESS, EGRESS):
        for table in range(fw.CLASS_TABLES):
            slot = fw.class_slot(half, direction, table)
            found.append(b"".join(pieces[ROW.pack(slot + piece)] for piece in range(fw.CLASS_PIECES)))
    return tuple(found)


def _settings(wall: PinnedFirewall, failsafe: int, *, audit: bool) -> Settings:
    row = bpfsys.map_lookup(wall.maps["ports"], ROW.pack(0), fw.PORTS_ROW.size) or bytes(fw.PORTS_ROW.size)
    found: dict[int, set[Failsafe]] = {fw.FAILSAFE_ALL: set(), fw.FAILSAFE_MEMBERS: set()}
    for key, value in wall.items("failsafe").items():
        way, protocol, packed = fw.FAILSAFE_KEY.unpack(key)
        port = int.from_bytes(packed, "big")
        if failsafe & fw.failsafe_bits([port]):  # without its bit the programs never ask for it
            found.setdefault(ROW.unpack(value)[0], set()).add((way, protocol, port))
    return Settings(
        audit,
        int.from_bytes(fw.PORTS_ROW.unpack(row)[0], "big"),
        frozenset(found[fw.FAILSAFE_ALL]),
        frozenset(found[fw.FAILSAFE_MEMBERS]),
    )


def policy_facts(tables: PolicyTables, settings: Settings) -> dict[str, str]:
    """Everything by name, as short texts; a group of peers by the digest of what it meets."""
    digests: dict[Cells, str] = {}

    def verdicts(cells: Cells) -> str:
        if cells not in digests:
            digests[cells] = hashlib.sha256(b"".join(cells)).hexdigest()[:16]
        return digests[cells]

    facts = {
        f"peer {network}": f"identity {peer.identity} verdicts {verdicts(peer.cells)}"
        for network, peer in tables.peers.items()
    }
    facts["world IPv4"], facts["world IPv6"] = verdicts(tables.world4), verdicts(tables.world6)
    for place, table in enumerate(tables.classes):
        way = DIRECTIONS[INGRESS + place // fw.CLASS_TABLES]
        name = f"{way} ports of {_TABLES[place % fw.CLASS_TABLES]}"
        facts[name] = hashlib.sha256(table).hexdigest()[:16]
    facts["enforcement"] = "on" if tables.enforced else "off"
    facts["audit"] = "on" if settings.audit else "off"
    facts["tunnel port"] = str(settings.port)
    facts.update(_failsafe(settings.members, "members"))
    facts.update(_failsafe(settings.failsafe, "everybody"))
    return facts


def _failsafe(rows: Iterable[Failsafe], whom: str) -> dict[str, str]:
    return {
        f"failsafe {DIRECTIONS.get(way, way)} {port}/{_PROTOCOLS.get(protocol, protocol)}": whom
        for way, protocol, port in rows
    }
