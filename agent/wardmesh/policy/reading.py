# SPDX-License-Identifier: Apache-2.0
"""A place in a policy document: typed reading, with errors that name file, path, problem and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from wardmesh.model.errors import WardmeshError


@dataclass(frozen=True)
class Place:
    """A value with the file (and document) it stands in and its path there, like spec.ingress[0].toPorts."""

    value: Any
    source: str
    path: str = ""

    def fail(self, what: str, why: str = "", remedy: str = "correct the policy") -> NoReturn:
        """Refuse the document because of this value."""
        where = f"{self.source}: {self.path}" if self.path else self.source
        raise WardmeshError(what, where=where, why=why, remedy=remedy)

    def at(self, key: str) -> Place:
        """The value of a key of this map, None inside where it is absent."""
        path = f"{self.path}.{key}" if self.path else key
        return Place(self.value.get(key), self.source, path)

    def has(self, key: str) -> bool:
        """Is the key there, and not null? An empty list is there."""
        return self.value.get(key) is not None

    def mapping(self, known: Iterable[str]) -> Place:
        """This, checked to be a map with known keys only."""
        if not isinstance(self.value, dict):
            self.fail(f"expected a map, found {self._kind()}")
        names = list(known)
        for key in self.value:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, 1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
                self.at(str(key)).fail("unknown field", hint)
        return self

    def items(self) -> Iterator[Place]:
        """The elements of a list; none where it is absent."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            self.fail(f"expected a list, found {self._kind()}")
        for index, value in enumerate(self.value):
            yield Place(value, self.source, f"{self.path}[{index}]")

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            self.fail(f"expected a string, found {self._kind()}")
        return str(self.value)

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.fail(f"expected true or false, found {self._kind()}")
        return bool(self.value)

    def _kind(self) -> str:
        names = {dict: "a map", list: "a list", str: "a string", bool: "a truth value", type(None): "nothing"}
        return names.get(type(self.value), "a number")
