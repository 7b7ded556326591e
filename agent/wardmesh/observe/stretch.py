# SPDX-License-Identifier: Apache-2.0
"""Stretches of a ring's entries, some as they came from the kernel, not read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, Union

from wardmesh.observe.flow import Events, Flow, Lost
from wardmesh.observe.names import Names

Entry = Union[Flow, Lost]
LONGEST = 4096  # entries of a stretch to which others may still be added


class Stretch(Protocol):
    """Entries one behind the other. Only the ring's writer makes it longer; what is there never changes."""

    def __len__(self) -> int: ...

    @property
    def flows(self) -> int:
        """How many of them are flows."""

    def entries(self, first: int, last: int) -> Sequence[Entry]:
        """Those from one place to before another one."""

    def stamps(self, first: int, last: int) -> Sequence[int | None]:
        """Unix ns of the same, without reading more of them; None: no flow."""

    def take_in(self, later: Stretch) -> bool:
        """Have another one's entries behind the own ones, where both are of one kind and there is room."""


class Listed:
    """Entries that are what they are already."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = list(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def flows(self) -> int:
        """How many of them are flows."""
        return sum(isinstance(entry, Flow) for entry in self._entries)

    def entries(self, first: int, last: int) -> Sequence[Entry]:
        """Those from one place to before another one."""
        return self._entries[first:last]

    def stamps(self, first: int, last: int) -> Sequence[int | None]:
        """Unix ns of the same; None: no flow."""
        return [
            entry.event.time_ns if isinstance(entry, Flow) else None for entry in self._entries[first:last]
        ]

    def take_in(self, later: Stretch) -> bool:
        """Have another list's entries behind the own ones."""
        if not isinstance(later, Listed) or len(self) + len(later) > LONGEST:
            return False
        self._entries += later._entries
        return True


class Seen:
    """Events with the names that were right when they came; they become flows when somebody reads them.

    number: of the first one, among all that the observer has seen. uuid: of a number.
    """

    def __init__(self, events: Events, names: Names, number: int, uuid: Callable[[int], str]) -> None:
        self.events, self.names, self.number = events, names, number
        self._uuid = uuid

    def __len__(self) -> int:
        return len(self.events)

    @property
    def flows(self) -> int:
        """Every one is a flow."""
        return len(self.events)

    def entries(self, first: int, last: int) -> Sequence[Entry]:
        """Flows from one place to before another one: the same ones however often they are asked for."""
        named, uuid, number = self.names.flow, self._uuid, self.number + first
        return [
            named(event, uuid(number + place)) for place, event in enumerate(self.events.between(first, last))
        ]

    def stamps(self, first: int, last: int) -> Sequence[int | None]:
        """Unix ns of the same."""
        return self.events.stamps(first, last)

    def take_in(self, later: Stretch) -> bool:
        """Have later events behind the own ones, as long as the names are the same."""
        return (
            isinstance(later, Seen)
            and later.names is self.names
            and later.number == self.number + len(self)
            and len(self) + len(later) <= LONGEST
            and self.events.take_in(later.events)
        )
