# SPDX-License-Identifier: Apache-2.0
"""The clock of flows: a tick is a power of two of jiffies, about a second (bpf/lib/fw_flows.h)."""

from __future__ import annotations

import math
import time

_COARSE_CLOCK = 6  # CLOCK_MONOTONIC_COARSE, linux/time.h: its resolution is a jiffy
_EARLY = 300  # seconds before its first wrap at which the kernel's 32-bit jiffies start (linux/jiffies.h)


def ticks_per_second() -> tuple[int, int]:
    """Jiffies of a second, and the shift from jiffies to ticks."""
    per_second = round(1 / time.clock_getres(_COARSE_CLOCK))
    return per_second, round(math.log2(per_second))


def now() -> int:
    """The time in ticks; whoever compares takes the distance modulo 2^32."""
    per_second, shift = ticks_per_second()
    jiffies = int(time.clock_gettime(time.CLOCK_MONOTONIC) * per_second) + (1 << 32) - _EARLY * per_second
    return jiffies >> shift


def seconds_until(expires: int) -> int:
    """Seconds to a time in ticks, of which 32 bits are kept: so the distance is taken modulo 2^32."""
    per_second, shift = ticks_per_second()
    distance = (expires - now() + (1 << 31)) % (1 << 32) - (1 << 31)
    return int(distance * (1 << shift) / per_second)
