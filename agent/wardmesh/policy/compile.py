# SPDX-License-Identifier: Apache-2.0
"""A direction of a host's policy as classes of traffic and groups of peers: what the datapath's tables hold.

Ports that no rule tells apart share a class; peers that no rule tells apart share a group. Both come from the
same step: begin with one set that holds everything and split it by each set that a rule names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wardmesh.policy.engine import Action, Direction
from wardmesh.policy.ports import ICMP, ICMP6, LAST_PORT, SCTP, TCP, UDP, PortRange

PORT_PROTOCOLS = (TCP, UDP, SCTP)
ICMP_LAST = 255


@dataclass(frozen=True)
class Segment:
    """Ports first to last of a protocol (ICMP: types) and their class."""

    protocol: int
    first: int
    last: int
    number: int


@dataclass(frozen=True)
class Compiled:
    """segments: every port of every protocol, once; others: the class of what has no ports, or unknown ones.

    groups: sets of entries (bits) that no rule tells apart, with the action for each class, in the order of
    classes; of two groups with the same actions other rules say so.
    """

    segments: tuple[Segment, ...]
    others: int
    groups: tuple[tuple[int, tuple[Action, ...]], ...]
    enforced: bool

    def action(self, place: int, protocol: int, port: int) -> Action:
        """The verdict, read from the compiled form."""
        number = next(
            (s.number for s in self.segments if s.protocol == protocol and s.first <= port <= s.last),
            self.others,
        )
        return next(actions[number] for members, actions in self.groups if members >> place & 1)


def compile_direction(direction: Direction, everything: int) -> Compiled:
    """Classes and groups of one direction; everything: the set of all entries."""
    segments, columns = _classes(direction)
    groups = _split(everything, {grant.peers for grant in direction.grants})
    found: list[tuple[int, tuple[Action, ...]]] = []
    known: dict[tuple[Action, ...], tuple[Action, ...]] = {}  # equal ones are one object: there may be many
    for members in groups:
        place = (members & -members).bit_length() - 1  # any of them stands for all
        actions = tuple(_action(direction, place, column) for column in columns)
        found.append((members, known.setdefault(actions, actions)))
    return Compiled(segments, 0, tuple(found), direction.enforced)


def _classes(direction: Direction) -> tuple[tuple[Segment, ...], list[tuple[int, ...]]]:
    """Segments, and for each class the grants (by place) that speak about it; class 0: what has no ports."""
    every = tuple(place for place, grant in enumerate(direction.grants) if grant.ranges is None)
    numbers: dict[tuple[int, ...], int] = {every: 0}
    segments: list[Segment] = []
    for protocol in (*PORT_PROTOCOLS, ICMP, ICMP6):
        last = ICMP_LAST if protocol in (ICMP, ICMP6) else LAST_PORT
        segments += _segments(direction, protocol, last, numbers)
    return tuple(segments), list(numbers)


def _segments(
    direction: Direction, protocol: int, last: int, numbers: dict[tuple[int, ...], int]
) -> Iterable[Segment]:
    named = [
        (place, found)
        for place, grant in enumerate(direction.grants)
        for found in (grant.ranges if grant.ranges is not None else _whole(protocol, last))
        if found.protocol == protocol
    ]
    edges = sorted({0, last + 1, *(r.first for _p, r in named), *(r.last + 1 for _p, r in named)})
    for first, end in zip(edges, edges[1:]):
        places = tuple(sorted({place for place, r in named if r.first <= first <= r.last}))
        yield Segment(protocol, first, end - 1, numbers.setdefault(places, len(numbers)))


def _whole(protocol: int, last: int) -> tuple[PortRange, ...]:
    return (PortRange(protocol, 0, last),)


def _split(everything: int, sets: Iterable[int]) -> Sequence[int]:
    groups = [everything]
    for chosen in sets:
        groups = [part for group in groups for part in (group & chosen, group & ~chosen) if part]
    return groups


def _action(direction: Direction, place: int, column: tuple[int, ...]) -> Action:
    """What becomes of this entry's traffic of a class: the same order as Direction.decide."""
    found = [direction.grants[index] for index in column if direction.grants[index].peers >> place & 1]
    if any(grant.item.deny for grant in found):
        return Action.AUDIT if direction.audit else Action.DENY
    if found or not direction.enforced:
        return Action.ALLOW
    return Action.AUDIT if direction.audit else Action.NO_RULE
