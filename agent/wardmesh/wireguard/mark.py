# SPDX-License-Identifier: Apache-2.0
"""Numbers of the mesh that the datapath knows too (datapath/contract.py); a test compares them."""

from __future__ import annotations

from ipaddress import IPv4Address

INTERFACE = "wardmesh_wg0"
SECOND_INTERFACE = "wardmesh_wg1"  # beside it while keys rotate
OWN_PREFIX = "wardmesh_"  # every device of ours begins so
MARK = 0x1E00  # on what WireGuard sends, and on what the guard knows to be the tunnel's (upstream's value)
MARK_MASK = 0xFF00
# On the tunnel's device, with host scope, so that nobody uses it. The reverse path check, even a loose one,
# drops what comes in by another device than the way back if that device has no IPv4 address
# (net/ipv4/fib_frontend.c, __fib_validate_source); in prefer the way back may lead outside. It stays, for
# with the last address of a device the kernel removes its routes.
LOOSE_ADDRESS = IPv4Address("127.51.87.1")
