# SPDX-License-Identifier: Apache-2.0
"""What a reader of the page asked to see: the filters of its address line, as tests of rows and of edges.

host and label speak about either end, the others about one. A name is exact, or a pattern with *. A label
selector is Kubernetes' own, as --label of `wardmesh observe` takes it: all of it must hold at one end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wardmesh.model.errors import WardmeshError
from wardmesh.observe import labelfilter
from wardmesh.observe.ui.rows import OUTCOMES, End, Row
from wardmesh.observe.wildcards import wildcard

PARAMETERS = ("host", "label", "verdict", "tunnel", "from", "to", "fromLabel", "toLabel", "port")
_TUNNEL = {"": (True, False), "encrypted": (True,), "plain": (False,)}
_LONGEST = 1024
Of = Callable[[End], bool]


def _all(_end: End) -> bool:
    return True


@dataclass(frozen=True)
class View:
    """Tests of ends, and the outcomes, tunnel states and port that are wanted. port "": every one."""

    outcomes: frozenset[str] = frozenset(OUTCOMES)
    tunnel: tuple[bool, ...] = (True, False)
    port: str = ""
    host: Of = _all
    label: Of = _all
    left: Of = _all
    right: Of = _all

    def joins(self, left: End, right: End) -> bool:
        """Do the two ends belong to what is wanted?"""
        return (
            self.left(left)
            and self.right(right)
            and (self.host(left) or self.host(right))
            and (self.label(left) or self.label(right))
        )

    def admits(self, row: Row) -> bool:
        """Is the row shown?"""
        return (
            row.outcome in self.outcomes
            and row.encrypted in self.tunnel
            and (not self.port or row.port == self.port)
            and self.joins(row.left, row.right)
        )


def read_view(given: Mapping[str, str]) -> View:
    """From parameters by name, empty ones ask for nothing; WardmeshError names what cannot be read."""
    values = {name: given.get(name, "").strip() for name in PARAMETERS}
    for name, text in values.items():
        if len(text) > _LONGEST:
            raise WardmeshError("this is too long", where=name, why=f"more than {_LONGEST} characters")
    return View(
        _outcomes(values["verdict"]),
        _tunnel(values["tunnel"]),
        values["port"],
        _name(values["host"], "host"),
        _label(values["label"], "label"),
        _both(_name(values["from"], "from"), _label(values["fromLabel"], "fromLabel")),
        _both(_name(values["to"], "to"), _label(values["toLabel"], "toLabel")),
    )


def _outcomes(text: str) -> frozenset[str]:
    words = [word.strip() for word in text.lower().split(",") if word.strip()]
    wrong = [word for word in words if word not in OUTCOMES]
    if wrong:
        raise WardmeshError(
            f"{wrong[0]!r} is no verdict of the page", where="verdict", remedy=", ".join(OUTCOMES)
        )
    return frozenset(words or OUTCOMES)


def _tunnel(text: str) -> tuple[bool, ...]:
    if text not in _TUNNEL:
        raise WardmeshError(f"{text!r} is no state of flows", where="tunnel", remedy="encrypted or plain")
    return _TUNNEL[text]


def _name(text: str, where: str) -> Of:
    if not text:
        return _all
    if "*" not in text:
        return lambda end: end.name == text
    try:
        test = wildcard(text)
    except WardmeshError as error:
        raise WardmeshError(error.what, where=where, remedy=error.remedy) from error
    return lambda end: test(end.name.lower())


def _label(text: str, where: str) -> Of:
    if not text:
        return _all
    try:
        test = labelfilter.parse(text)
    except WardmeshError as error:
        raise WardmeshError(error.what, where=where, why=error.why, remedy=error.remedy) from error
    return lambda end: test(end.index)


def _both(first: Of, second: Of) -> Of:
    if second is _all:
        return first
    return lambda end: first(end) and second(end)
