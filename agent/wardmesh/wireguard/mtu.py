# SPDX-License-Identifier: Apache-2.0
"""Pure: the tunnel's MTU from those of the devices below it.

80 bytes: 40 IPv6 + 8 UDP + 32 WireGuard (4 type, 4 receiver, 8 counter, 16 tag); upstream's pkg/mtu takes
the same for both families, so that a member may change to IPv6 without a change of MTU.
"""

from __future__ import annotations

from collections.abc import Iterable

OVERHEAD = 80
IPV6_MINIMUM = 1280  # RFC 8200 §5: below it the kernel takes IPv6 off the device
DEFAULT = 1420


def tunnel_mtu(device_mtu: int) -> int:
    """What fits through the tunnel over a device or path of that MTU, in bytes."""
    return max(device_mtu - OVERHEAD, IPV6_MINIMUM)


def interface_mtu(path_mtus: Iterable[int], configured: int | None) -> int:
    """The device's MTU: the configured one, else what the widest path takes; route_mtu is for the others."""
    if configured:
        return configured
    return max((tunnel_mtu(mtu) for mtu in path_mtus), default=DEFAULT)


def route_mtu(path_mtu: int, interface: int) -> int:
    """The MTU of a route through the tunnel over a path; 0 where the interface's own is right."""
    fits = tunnel_mtu(path_mtu)
    return fits if fits < interface else 0
