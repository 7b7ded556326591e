# SPDX-License-Identifier: Apache-2.0
"""What the guard's pinned maps say, read from the kernel."""

from __future__ import annotations

from wardmesh.datapath import contract
from wardmesh.datapath.pinned import PinnedMaps

_FLAGS = {contract.MEMBER: "member", contract.STRICT: "strict", contract.SELF: "self"}


def ipcache(guard: PinnedMaps) -> dict[contract.Network, tuple[int, tuple[str, ...]]]:
    """Identity and flags by network."""
    found = {}
    for name in ("ipcache4", "ipcache6", "prefix4", "prefix6"):
        for key, value in guard.items(name).items():
            identity, flags = contract.IPCACHE_VALUE.unpack(value)
            words = tuple(word for bit, word in _FLAGS.items() if flags & bit)
            found[contract.ipcache_network(name, key)] = (int(identity), words)
    return found
