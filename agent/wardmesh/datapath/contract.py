# SPDX-License-Identifier: Apache-2.0
"""The agent's copy of bpf/lib/contract.h: numbers, keys and values shared with the kernel side.

tests/bpf/test_contract.py compares every number and layout with the header.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import struct
from dataclasses import asdict, dataclass
from typing import Union

from wardmesh.datapath import event_contract as events

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

MARK = 0x1E00
MARK_MASK = 0xFF00

MEMBER = 1
STRICT = 2
SELF = 4

CFG_READY = 1
CFG_PREFIX4 = 2
CFG_PREFIX6 = 4
CFG_EXCEPTIONS = 8

INGRESS = 1
EGRESS = 2
DIRECTIONS = {INGRESS: "ingress", EGRESS: "egress"}

FORWARDED = 0
PLAINTEXT = 3
TUNNEL = 64
EXEMPT = 65
INVALID = 134
UNENCRYPTED = 195
# Names of 134 and 195 are upstream's (Cilium pkg/monitor/api).
REASONS = {
    FORWARDED: "Forwarded",
    PLAINTEXT: "Plaintext",
    TUNNEL: "Tunnel",
    EXEMPT: "Exempt",
    INVALID: "Invalid packet",
    UNENCRYPTED: "Traffic is unencrypted",
    **events.REASONS,
}
DROP_REASONS = frozenset({INVALID, UNENCRYPTED})

METRIC_ROWS = 1024
EVENTS_BYTES = 256 << 10  # of the ring: two thousand drops

# Layouts, as struct formats: "=" is the host's order without padding; addresses and ports are raw bytes
# in network order.
IPCACHE_VALUE = struct.Struct("=II")  # identity, flags
CONFIG = struct.Struct("=2s2sI")  # listen port, second listen port, flags
METRIC = struct.Struct("=QQ")  # packets, bytes
EXCEPTION_KEY = struct.Struct("=BB2s")  # protocol, padding, port
PREFIX_LEN = struct.Struct("=I")
ROW = struct.Struct("=I")

PROGRAMS = ("egress_l2", "egress_l3", "ingress_l2", "ingress_l3")

MAX_EXCEPTIONS = 256
ROOM_BYTES = 64  # struct wm_room

# enum bpf_map_type and BPF_F_NO_PREALLOC of linux/bpf.h
_HASH = 1
_ARRAY = 2
PERCPU_ARRAY = 6
_LPM_TRIE = 11
_NO_PREALLOC = 1
ARRAYS = (_ARRAY, PERCPU_ARRAY)  # kinds that are always full


@dataclass(frozen=True)
class MapSpec:
    """What the kernel must know to create a map; sizes in bytes and entries."""

    name: str
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


def map_specs(members_max: int) -> tuple[MapSpec, ...]:
    """Every map of the guard.

    The ipcache maps get twice the configured size: changes are added before anything is deleted,
    so that for a moment the old and the new fleet are both inside.
    """
    room = 2 * members_max
    value = IPCACHE_VALUE.size
    return (
        MapSpec("ipcache4", _HASH, 4, value, room, _NO_PREALLOC),
        MapSpec("ipcache6", _HASH, 16, value, room, _NO_PREALLOC),
        MapSpec("prefix4", _LPM_TRIE, PREFIX_LEN.size + 4, value, room, _NO_PREALLOC),
        MapSpec("prefix6", _LPM_TRIE, PREFIX_LEN.size + 16, value, room, _NO_PREALLOC),
        MapSpec("exceptions", _HASH, EXCEPTION_KEY.size, 4, MAX_EXCEPTIONS),
        MapSpec("config", _ARRAY, ROW.size, CONFIG.size, 1),
        MapSpec("metrics", PERCPU_ARRAY, ROW.size, METRIC.size, METRIC_ROWS),
        MapSpec("watch", _ARRAY, ROW.size, events.WATCH.size, 1),
        MapSpec("buckets", PERCPU_ARRAY, ROW.size, events.BUCKET.size, events.BUCKETS),
        MapSpec("room", PERCPU_ARRAY, ROW.size, ROOM_BYTES, 1),
        MapSpec("events", events.RING, 0, 0, EVENTS_BYTES),
    )


def contract_hash(members_max: int) -> str:
    """Twelve hex digits that change with any number, layout or size: the name of a generation of maps."""
    terms = {
        "maps": [asdict(spec) for spec in map_specs(members_max)],
        "numbers": [
            MARK,
            MARK_MASK,
            MEMBER,
            STRICT,
            SELF,
            CFG_READY,
            CFG_PREFIX4,
            CFG_PREFIX6,
            CFG_EXCEPTIONS,
        ],
        "directions": sorted(DIRECTIONS.items()),
        "reasons": sorted(REASONS.items()),
        "layouts": [
            layout.format
            for layout in (IPCACHE_VALUE, CONFIG, METRIC, EXCEPTION_KEY, events.WATCH, events.EVENT)
        ],
    }
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:12]


def ipcache_slot(network: Network) -> tuple[str, bytes]:
    """Map name and key of a network: host addresses go to the hash, everything else to the trie."""
    packed = network.network_address.packed
    if network.prefixlen == network.max_prefixlen:
        return f"ipcache{network.version}", packed
    return f"prefix{network.version}", PREFIX_LEN.pack(network.prefixlen) + packed


def ipcache_network(map_name: str, key: bytes) -> Network:
    """The network of a key read from one of the ipcache maps."""
    if map_name.startswith("ipcache"):
        return ipaddress.ip_network(key)
    (prefixlen,) = PREFIX_LEN.unpack(key[: PREFIX_LEN.size])
    return ipaddress.ip_network((key[PREFIX_LEN.size :], prefixlen))


def exception_key(protocol: int, port: int) -> bytes:
    """Key of an exception; port 0 is the whole protocol."""
    return EXCEPTION_KEY.pack(protocol, 0, port.to_bytes(2, "big"))


def metric_row(reason: int, direction: int) -> bytes:
    """Key of a counter."""
    return ROW.pack(direction << 8 | reason)
