# SPDX-License-Identifier: Apache-2.0
"""Numbers of the mesh that the datapath knows too (datapath/contract.py); a test compares them."""

from __future__ import annotations

INTERFACE = "wardmesh_wg0"
OWN_PREFIX = "wardmesh_"  # every device of ours begins so
MARK = 0x1E00  # on what WireGuard sends, and on what the guard knows to be the tunnel's (upstream's value)
MARK_MASK = 0xFF00
