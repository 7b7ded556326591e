# SPDX-License-Identifier: Apache-2.0
"""Pure: a policy as tables, and the steps from one set of tables to the next without a mixture.

A change must be whole for every packet, though peers, rows and classes are many writes. Classes and rows
exist twice and the state's generation picks the half; peers exist once. So before the swap every peer of the
old and the new set gets a row whose old half says what the old policy said about it and whose new half says
what the new one says. After the swap only the new half counts: peers of equal cells share one row, and those
that are no longer named fall to what covers them, which by then says the same.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from wardmesh.datapath.contract import Network
from wardmesh.datapath.fw_contract import (
    CLASS_TABLE_BYTES,
    ROW_BYTES,
    ROW_FIRST,
    ROW_WORLD4,
    ROW_WORLD6,
)
from wardmesh.model.errors import WardmeshError

Cells = tuple[bytes, bytes]  # a row of ingress and of egress, ROW_BYTES each


@dataclass(frozen=True)
class Peer:
    """What policy says about a network: its identity, for flows, and its cells.

    group: peers of one group meet the same rules. Others may have equal cells by other rules; they get rows
    of their own where there is room, so that what a row counted can be told by rules.
    """

    identity: int
    cells: Cells
    group: int = 0


@dataclass(frozen=True)
class PolicyTables:
    """A policy set for one host.

    classes: four class tables for ingress, then four for egress, CLASS_TABLE_BYTES each.
    peers: networks that some rule or the fleet names; world4, world6: everybody else.
    enforced: some direction has a default deny. world_groups: the groups of world4 and world6.
    """

    classes: tuple[bytes, ...]
    peers: Mapping[Network, Peer]
    world4: Cells
    world6: Cells
    enforced: bool
    world_groups: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Step:
    """Peers before the swap, rows that take old cells from another, new cells by row, peers after it."""

    before: dict[Network, tuple[int, int]]
    copies: dict[int, int]
    rows: dict[int, Cells]
    after: dict[Network, tuple[int, int]]


def row_of(cells: Iterable[int]) -> bytes:
    """A row from the cell of each class, in order; classes beyond have no rule."""
    packed = 0
    for place, cell in enumerate(cells):
        packed |= cell << 2 * place
    return packed.to_bytes(ROW_BYTES, sys.byteorder)


def class_table(segments: Iterable[tuple[int, int, int]]) -> bytes:
    """A class table from (first, last, class); later segments win, the rest is class 0."""
    table = array("H", bytes(CLASS_TABLE_BYTES))
    for first, last, number in segments:
        table[first : last + 1] = array("H", [number]) * (last + 1 - first)
    return table.tobytes()


class Covering:
    """Longest prefix match over some networks, in Python."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._known = set(networks)
        lengths: dict[int, set[int]] = {4: set(), 6: set()}
        for network in self._known:
            lengths[network.version].add(network.prefixlen)
        self._lengths = {version: sorted(found, reverse=True) for version, found in lengths.items()}

    def of(self, network: Network) -> Network | None:
        """The network itself, or the longest one that covers it; None where there is none."""
        if network in self._known:
            return network
        for length in self._lengths[network.version]:
            if length < network.prefixlen:
                wider = network.supernet(new_prefix=length)
                if wider in self._known:
                    return wider
        return None


def _world_row(network: Network) -> int:
    return ROW_WORLD4 if network.version == 4 else ROW_WORLD6


def plan(current: Mapping[Network, tuple[int, int]], wanted: PolicyTables, rows_max: int) -> Step:
    """The step from the peers that the kernel has (network to identity, row) to the wanted tables.

    Groups that the map has no room for share the rows of equal cells: a counter less, the same verdicts.
    WardmeshError when more rows are needed than the map holds; nothing was changed then.
    """
    step = _plan(current, wanted, rows_max) or _plan(current, _without_groups(wanted), rows_max)
    if step is None:
        raise _too_many(rows_max)
    return step


def _without_groups(wanted: PolicyTables) -> PolicyTables:
    peers = {network: replace(peer, group=0) for network, peer in wanted.peers.items()}
    return replace(wanted, peers=peers, world_groups=(0, 0))


def _plan(current: Mapping[Network, tuple[int, int]], wanted: PolicyTables, rows_max: int) -> Step | None:
    """See plan; None where there are too few rows."""
    old, new = Covering(current), Covering(wanted.peers)
    worlds = {
        4: Peer(0, wanted.world4, wanted.world_groups[0]),
        6: Peer(0, wanted.world6, wanted.world_groups[1]),
    }
    rows: dict[int, Cells] = {ROW_WORLD4: wanted.world4, ROW_WORLD6: wanted.world6}
    copies: dict[int, int] = {}
    before: dict[Network, tuple[int, int]] = {}
    place: dict[tuple[int, Cells, int], int] = {
        (row, worlds[version].cells, worlds[version].group): row
        for version, row in ((4, ROW_WORLD4), (6, ROW_WORLD6))
    }
    kept = {row for _identity, row in current.values()}
    free = (row for row in range(ROW_FIRST, rows_max) if row not in kept)
    for network in {**current, **wanted.peers}:
        over, under = old.of(network), new.of(network)
        old_row = current[over][1] if over is not None else _world_row(network)
        peer = wanted.peers[under] if under is not None else None
        meets = peer or worlds[network.version]
        row = place.get((old_row, meets.cells, meets.group))
        if row is None:
            row = old_row if old_row >= ROW_FIRST and old_row not in rows else next(free, None)
            if row is None:
                return None
            place[old_row, meets.cells, meets.group] = row
            rows[row] = meets.cells
            if row != old_row:
                copies[row] = old_row
        before[network] = (peer.identity if peer else current[network][0], row)
    return Step(before, copies, rows, _canonical(wanted, before))


def _canonical(
    wanted: PolicyTables, before: Mapping[Network, tuple[int, int]]
) -> dict[Network, tuple[int, int]]:
    """One row for each content and group; any of those that hold it does."""
    first: dict[tuple[Cells, int], int] = {}
    after = {}
    for network, peer in wanted.peers.items():
        after[network] = (peer.identity, first.setdefault((peer.cells, peer.group), before[network][1]))
    return after


def _too_many(rows_max: int) -> WardmeshError:
    return WardmeshError(
        f"the policy tells apart more groups of peers than the firewall's map holds ({rows_max})",
        where="bpf.policyRowsMax",
        remedy="raise bpf.policyRowsMax, or let rules select by fewer labels",
    )
