# SPDX-License-Identifier: Apache-2.0
"""The agent's copy of bpf/lib/fw_contract.h: what the firewall's programs and the agent agree on."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

from wardmesh.datapath import event_contract as events
from wardmesh.datapath.contract import METRIC, METRIC_ROWS, PREFIX_LEN, ROW, MapSpec, Network, ipcache_network

CLASSES = 1024
CELLS_PER_WORD = 32
WORDS = CLASSES // CELLS_PER_WORD

NO_RULE, ALLOW, DENY, AUDIT = range(4)  # a cell: two bits

ROW_WORLD4, ROW_WORLD6, ROW_FIRST = 0, 1, 2

CLASS_TABLES = 4
TABLE_OF_PROTOCOL = {6: 0, 17: 1, 132: 2}  # TCP, UDP, SCTP; everything else is in the last
TABLE_OTHERS = 3
CLASS_ICMP, CLASS_ICMP6, CLASS_PROTOCOL = 0, 256, 512
PORTS = 65536

STATE_AUDIT, STATE_NETS4, STATE_NETS6, STATE_ENFORCE = 1, 2, 4, 8

FLOW_CLOSING, FLOW_REPLIED, FLOW_FAILSAFE = 1, 2, 4

# From 130 on the names are upstream's (Cilium pkg/monitor/api).
REASONS = {
    0: "Forwarded",
    66: "Audited",
    67: "Failsafe",
    68: "Allowed",
    **events.REASONS,
    133: "Policy denied",
    134: "Invalid packet",
    155: "CT: Map insertion failed",
    157: "Fragmented packet",
    176: "Forbidden ICMPv6 message",
    181: "Policy denied by denylist",
}

STATE = struct.Struct("=IIQQ")  # generation, flags, seed, failsafe: a bit for each port modulo 64
PORTS_ROW = struct.Struct("=2s2sI")  # listen port, second listen port
PEER = struct.Struct("=II")  # identity, row
CLASS_TABLE_BYTES = 2 * PORTS
CLASS_PIECE = 64
CLASS_PIECES = PORTS // CLASS_PIECE
PIECE_BYTES = 2 * CLASS_PIECE
ROW_BYTES = 8 * WORDS
FAILSAFE_KEY = struct.Struct("=BB2s")  # direction, protocol, port
FLOW4_KEY = struct.Struct("=4s4s2s2sB3x")  # remote, local, remote port, local port, protocol
FLOW6_KEY = struct.Struct("=16s16s2s2sB3x")
# generation, class, cell, direction; bytes ×2, packets ×2, identity, row, expires, state
FLOW = struct.Struct("=IHBBQQIIIIIB3x")
FLOW_TABLES = ("flows4", "flows6")
WAYS = 8
TAG_ANSWERED, TAG_SETTLED = 1, 2
HEAD = struct.Struct(f"={WAYS}I{WAYS}I")  # holds: the number of a slot, and a tag; ends, in ticks
TAKEN = struct.Struct("=Q")  # slots of a table that were ever used: the first ones
SLOT4_BYTES, SLOT6_BYTES = 64, 128
FRAGMENT_KEY = struct.Struct("=16s16sII")
LOCAL = struct.Struct("=16sIIII")  # address, device, until, family, unused
EVENTS_BYTES = 4 << 20  # of the ring: thirty-seven thousand events
JUDGED_KEY = struct.Struct("=BBHI")  # direction, half, class, row
RECENT = struct.Struct("=BBHIQI4x")  # the same, count, generation

PROGRAMS = ("egress_l2", "egress_l3", "ingress_l2", "ingress_l3")
# Maps of peers by the place that a network has in the guard's maps, and the sizes of their keys.
PEER_MAPS = {"ipcache4": "peers4", "ipcache6": "peers6", "prefix4": "nets4", "prefix6": "nets6"}
PEER_KEYS = {"peers4": 4, "peers6": 16, "nets4": PREFIX_LEN.size + 4, "nets6": PREFIX_LEN.size + 16}
MAX_FAILSAFE = 256
FAILSAFE_ALL, FAILSAFE_MEMBERS = 1, 2  # for whom
MAX_FRAGMENTS = 8192
MAX_JUDGED = 65536
RECENT_ROWS = 64
LOCALS = 256
ROOM_BYTES = 384

_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LPM_TRIE = 1, 2, 6, 9, 11
_NO_PREALLOC, _MMAPABLE = 1, 1 << 10  # linux/bpf.h


def map_specs(peers_max: int, rows_max: int, flows_max: int) -> tuple[MapSpec, ...]:
    """Every map of the firewall.

    Twice the peers, because old and new ones are inside together during a change; two halves of classes
    and rows for two directions.
    """
    room = 2 * peers_max
    slots4, slots6 = (1 << bits for bits in flow_bits(flows_max))
    return (
        MapSpec("state", _ARRAY, ROW.size, STATE.size, 1),
        MapSpec("ports", _ARRAY, ROW.size, PORTS_ROW.size, 1),
        MapSpec("classes", _ARRAY, ROW.size, PIECE_BYTES, 2 * 2 * CLASS_TABLES * CLASS_PIECES),
        MapSpec("rows", _ARRAY, ROW.size, ROW_BYTES, 2 * 2 * rows_max),
        MapSpec("peers4", _HASH, PEER_KEYS["peers4"], PEER.size, room, _NO_PREALLOC),
        MapSpec("peers6", _HASH, PEER_KEYS["peers6"], PEER.size, room, _NO_PREALLOC),
        MapSpec("nets4", _LPM_TRIE, PEER_KEYS["nets4"], PEER.size, room, _NO_PREALLOC),
        MapSpec("nets6", _LPM_TRIE, PEER_KEYS["nets6"], PEER.size, room, _NO_PREALLOC),
        MapSpec("failsafe", _HASH, FAILSAFE_KEY.size, 4, MAX_FAILSAFE),
        # What can be mapped begins with a page, so no head and no slot crosses a line of the cache.
        MapSpec("heads4", _ARRAY, ROW.size, HEAD.size, slots4 // WAYS, _MMAPABLE),
        MapSpec("heads6", _ARRAY, ROW.size, HEAD.size, slots6 // WAYS, _MMAPABLE),
        MapSpec("flows4", _ARRAY, ROW.size, SLOT4_BYTES, slots4, _MMAPABLE),
        MapSpec("flows6", _ARRAY, ROW.size, SLOT6_BYTES, slots6, _MMAPABLE),
        MapSpec("taken", _ARRAY, ROW.size, TAKEN.size, len(FLOW_TABLES)),
        MapSpec("fragments", _LRU_HASH, FRAGMENT_KEY.size, 4, MAX_FRAGMENTS),
        MapSpec("judged", _LRU_HASH, JUDGED_KEY.size, 8, MAX_JUDGED),
        MapSpec("recent", _PERCPU_ARRAY, ROW.size, RECENT.size, RECENT_ROWS),
        MapSpec("locals", _PERCPU_ARRAY, ROW.size, LOCAL.size, LOCALS),
        MapSpec("room", _PERCPU_ARRAY, ROW.size, ROOM_BYTES, 1),
        MapSpec("metrics", _PERCPU_ARRAY, ROW.size, METRIC.size, METRIC_ROWS),
        MapSpec("watch", _ARRAY, ROW.size, events.WATCH.size, 1),
        MapSpec("buckets", _PERCPU_ARRAY, ROW.size, events.BUCKET.size, events.BUCKETS),
        MapSpec("events", events.RING, 0, 0, EVENTS_BYTES),
    )


def flow_bits(flows_max: int) -> tuple[int, int]:
    """Bits of the numbers of slots, for IPv4 and for half as many IPv6 flows.

    Twice the slots that are asked for: of two sets of eight filled by half, the chance that both are full
    is below one in a hundred million, and flows that were not answered find room beside the others.
    """
    return _bits(2 * flows_max), _bits(flows_max)


def _bits(least: int) -> int:
    return max(least - 1, 2 * WAYS - 1).bit_length()


def contract_hash(peers_max: int, rows_max: int, flows_max: int) -> str:
    """Twelve hex digits that change with any layout or size: the name of a generation of maps."""
    keys = (FAILSAFE_KEY, FLOW4_KEY, FLOW6_KEY, FRAGMENT_KEY, JUDGED_KEY)
    layouts = (STATE, PORTS_ROW, PEER, FLOW, LOCAL, RECENT, events.WATCH, events.EVENT, *keys)
    terms = {
        "maps": [asdict(spec) for spec in map_specs(peers_max, rows_max, flows_max)],
        "layouts": [layout.format for layout in layouts],
        "reasons": sorted(REASONS.items()),
    }
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:12]


def read_peers(items: Callable[[str], Mapping[bytes, bytes]]) -> dict[Network, tuple[int, int]]:
    """Identity and row by network; items: the entries of a map by its name."""
    found: dict[Network, tuple[int, int]] = {}
    for slot, name in PEER_MAPS.items():
        for key, value in items(name).items():
            identity, row = PEER.unpack(value)
            found[ipcache_network(slot, key)] = (int(identity), int(row))
    return found


def failsafe_bits(ports: Iterable[int]) -> int:
    """The word that says of most ports that they are none of the failsafe's (WM_FAILSAFE_BIT)."""
    bits = 0
    for port in ports:
        bits |= 1 << (port & 63)
    return bits


def class_slot(half: int, direction: int, table: int) -> int:
    """Place of a class table's first piece; direction 1 is ingress, 2 is egress."""
    return ((half * 2 + direction - 1) * CLASS_TABLES + table) * CLASS_PIECES


def row_slot(half: int, direction: int, row: int, rows_max: int) -> int:
    """Place of a row of cells."""
    return (half * 2 + direction - 1) * rows_max + row
