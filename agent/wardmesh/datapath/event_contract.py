# SPDX-License-Identifier: Apache-2.0
"""The agent's copy of bpf/lib/event.h: what guard and firewall tell an observer, and how much of it."""

from __future__ import annotations

import struct

WATCH = struct.Struct("=IIII")  # told, sample, drops, unused
BUCKET = struct.Struct("=II")  # tick, used
# time, source, destination, bytes ×2, packets ×2, identity, row, generation, device, place, ports, class,
# kind, reason, direction, opened, cell, state, family, protocol, TCP flags, ICMP type and code
EVENT = struct.Struct("=Q16s16sQQIIIIIII2s2sHBBBBBBBBBBB3x")
EVENT_NEW, EVENT_ANSWERED, EVENT_CLOSING, EVENT_DROP = 1, 2, 3, 4
BUCKETS = 256  # one for each reason

LOST, WITHHELD = 69, 70  # reasons: the ring was full; a drop beyond the rate that was asked for
REASONS = {LOST: "Event lost", WITHHELD: "Event withheld"}

RING = 27  # enum bpf_map_type of linux/bpf.h
