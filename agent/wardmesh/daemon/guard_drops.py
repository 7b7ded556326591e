# SPDX-License-Identifier: Apache-2.0
"""What the guard drops, from a ring of its own: it stands where no firewall is, and needs none to tell."""

from __future__ import annotations

from wardmesh.datapath import contract
from wardmesh.datapath.event_ring import Told
from wardmesh.datapath.pinned import PinnedMaps
from wardmesh.datapath.pins import Pins, inode_of
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError


class GuardDrops:
    """The guard's maps as they are now; nothing is told while there is no guard.

    members_max: bpf.membersMax, by which the maps are found. most: drops of one reason in a second and on one
    processor.
    """

    def __init__(self, paths: Paths, members_max: int, most: int) -> None:
        self._folder = Pins(paths.bpffs).maps(contract.contract_hash(members_max))
        self._specs = contract.map_specs(members_max)
        self._most = most
        self._maps: PinnedMaps | None = None
        self._told: Told | None = None
        self._made = self._earlier = 0
        self.refresh()

    def refresh(self) -> None:
        """Open maps that are there now, and let go of those that are not any more."""
        made = inode_of(self._folder)
        if made == self._made:
            return
        self._let_go()
        try:
            self._maps = PinnedMaps(self._folder, self._specs, "guard")
        except WardmeshError:
            return  # being made, or switched off: the next look tells
        self._made = made
        self._told = Told(self._maps, contract.EVENTS_BYTES, drops=self._most)

    def take(self, most: int) -> bytes:
        """Up to so many events as they lie in the ring (event_ring.STRIDE), oldest first."""
        return self._told.take(most) if self._told is not None else b""

    def lost(self) -> int:
        """Drops that found the ring full since the start."""
        return self._earlier + (self._told.lost() if self._told is not None else 0)

    def close(self) -> None:
        """Nothing is told any more."""
        if self._told is not None:
            self._told.silence()
        self._let_go()

    def _let_go(self) -> None:
        self._earlier = self.lost()
        if self._told is not None:
            self._told.close()
        if self._maps is not None:
            self._maps.close()
        self._told = self._maps = None
        self._made = 0
