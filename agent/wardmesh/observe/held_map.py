# SPDX-License-Identifier: Apache-2.0
"""The fleet map as it is now, for processes that look at its file from time to time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from wardmesh.host.files import Stamp, stamp
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address, FleetMap
from wardmesh.observe.service import read_fleet

LOG = logging.getLogger("wardmesh")


class HeldMap:
    """fleet: the last good map, None before the first; own: this host's name in it, "" where it has none."""

    def __init__(self, paths: Paths, own_name: Callable[[FleetMap], str]) -> None:
        self._paths = paths
        self._own_name = own_name
        self._seen: Stamp = (-1, -1)  # no file's: the first look reads
        self.fleet: FleetMap | None = None
        self.own = ""

    def changed(self) -> bool:
        """Read it again where it is another one; a broken map leaves the last good one."""
        seen = stamp(self._paths.fleet_in_force)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.fleet = read_fleet(self._paths)
        except WardmeshError as error:
            LOG.error("%s", error)
            return False
        self.own = self._own_name(self.fleet) if self.fleet else ""
        return True

    def own_addresses(self) -> tuple[Address, ...]:
        """Those of this host."""
        member = self.fleet.by_name(self.own) if self.fleet else None
        return member.addresses if member else ()

    def addresses(self) -> set[Address]:
        """Those of every member of the own cluster."""
        members = self.fleet.home if self.fleet else ()
        return {address for member in members for address in member.addresses}
