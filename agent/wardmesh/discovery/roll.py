# SPDX-License-Identifier: Apache-2.0
"""Pure: from the store's records and the passing of time to who is a member.

Time is seconds of connection to the store, counted by tick: it stands still while the store is away, and no
jump of a clock is in it. A record that is gone is looked at again after a while before its member departs:
  gone by an event      SETTLE seconds: somebody who lost a lease registers anew at once
  missing in a snapshot the lease's whole time: a store restored from a backup knows members by and by
A record that cannot be read does not replace a good one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wardmesh.discovery.backend import Entry
from wardmesh.discovery.document import Claim, Departed, Discovered
from wardmesh.discovery.keys import nodes_prefix
from wardmesh.discovery.members import former_of, member_of
from wardmesh.discovery.records import read_node
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError

SETTLE = 1.0
MOST_RECORDS = 20_000
_MOST_DEPARTED = 4096


@dataclass
class Roll:
    """The members that the store knows. lease, grace: seconds; rotated: see document.Discovered; skipped:
    why, by key of the store.

    prefix: where the records lie, "" is where the own cluster's do; foreign: of another one; most: members.
    """

    cluster: Cluster
    lease: float
    grace: float
    claims: dict[str, Claim] = field(default_factory=dict)
    departed: dict[str, Departed] = field(default_factory=dict)
    rotated: dict[str, Claim] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    _going: dict[str, float] = field(default_factory=dict)  # seconds left, by name
    changed: bool = False
    prefix: str = ""
    foreign: bool = False
    most: int = MOST_RECORDS

    def restore(self, found: Discovered) -> None:
        """Go on from what was learned before a restart."""
        if found.cluster == self.cluster:
            self.claims, self.departed = dict(found.claims), dict(found.departed)
            self.rotated = dict(found.rotated)

    def found(self) -> Discovered:
        """Who is a member now."""
        return Discovered(self.cluster, dict(self.claims), dict(self.departed), dict(self.rotated))

    def snapshot(self, entries: Iterable[Entry]) -> None:
        """Everything that the store has."""
        self.skipped.clear()
        here = {name for name in map(self.put, entries) if name}
        for name in self.claims:
            if name not in here:
                self._going.setdefault(name, self.lease)

    def put(self, entry: Entry) -> str:
        """A record as it is now; returns its name, "" where it is none."""
        name = self._name(entry.key)
        self.skipped.pop(entry.key, None)
        try:
            if not name:
                raise WardmeshError("record skipped", why="not below the members of this cluster")
            if name not in self.claims and len(self.claims) >= self.most:
                raise WardmeshError("record skipped", why=f"more than {self.most} members")
            node = read_node(entry.key, entry.value)
            member = member_of(node, self.cluster, entry.key, foreign=self.foreign)
            claim = Claim(member, entry.created, former_of(node))
        except WardmeshError as error:
            if len(self.skipped) < MOST_RECORDS:
                self.skipped[entry.key] = error.why or error.what
            self._going.pop(name, None)
            return name
        self._going.pop(name, None)
        self.rotated.pop(name, None)
        if self.departed.pop(name, None) is not None or self.claims.get(name) != claim:
            self.claims[name] = claim
            self.changed = True
        return name

    def gone(self, key: str) -> None:
        """A record was deleted, by its lease's end or by hand."""
        self.skipped.pop(key, None)
        name = self._name(key)
        if name in self.claims:
            self._going[name] = SETTLE

    def _name(self, key: str) -> str:
        prefix = self.prefix or nodes_prefix(self.cluster.name)
        name = key[len(prefix) :] if key.startswith(prefix) else ""
        return "" if "/" in name else name

    def tick(self, seconds: float) -> None:
        """So much time passed with a connection."""
        for name, item in list(self.departed.items()):
            left = item.left - seconds
            if left > 0:
                self.departed[name] = Departed(item.claim, left)
            else:
                del self.departed[name]
                self.changed = True
        for name in list(self._going):
            self._going[name] -= seconds
            if self._going[name] <= 0:
                del self._going[name]
                self._depart(name)

    def _depart(self, name: str) -> None:
        claim = self.claims.pop(name)
        self.changed = True
        if claim.former and len(self.rotated) < _MOST_DEPARTED:
            self.rotated[name] = claim
        if self.grace > 0 and len(self.departed) < _MOST_DEPARTED:
            self.departed[name] = Departed(claim, self.grace)
