# SPDX-License-Identifier: Apache-2.0
"""Pure: what a test between two members was to find, what it found, and whether the two agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardmesh.health.reach import Pinged, passed
from wardmesh.model.errors import WardmeshError

TARGETS_MAX = 100000
PORTS_MAX = 64


@dataclass(frozen=True)
class Expected:
    """Is it to pass, and which rule says so."""

    passes: bool
    why: str = ""


@dataclass(frozen=True)
class Port:
    """A TCP port, written as 5432/tcp."""

    port: str
    expected: Expected

    def __post_init__(self) -> None:
        number, _slash, protocol = self.port.partition("/")
        if protocol != "tcp" or not number.isdigit() or not 0 < int(number) < 65536:
            raise WardmeshError("not a TCP port", where=self.port, remedy="write 5432/tcp")

    @property
    def number(self) -> int:
        """1 to 65535."""
        return int(self.port.partition("/")[0])


@dataclass(frozen=True)
class Target:
    """Whom to test, and what is expected."""

    name: str
    icmp: Expected
    ports: tuple[Port, ...]

    def as_dict(self) -> dict[str, Any]:
        """For the plan's JSON."""
        return {
            "name": self.name,
            "icmp": {"passes": self.icmp.passes, "why": self.icmp.why},
            "ports": [
                {"port": item.port, "passes": item.expected.passes, "why": item.expected.why}
                for item in self.ports
            ],
        }


@dataclass(frozen=True)
class Outcome:
    """What was found. large: None where it was not tried; said: of each port; encrypted None: not known."""

    target: Target
    address: str
    small: Pinged
    large: Pinged | None
    said: Mapping[str, str]
    encrypted: bool | None
    evidence: str


def read_plan(data: bytes, source: str) -> list[Target]:
    """The controller's plan; WardmeshError where it is none."""
    try:
        items = json.loads(data)["targets"]
        if len(items) > TARGETS_MAX or any(len(item["ports"]) > PORTS_MAX for item in items):
            raise ValueError(f"more than {TARGETS_MAX} members or {PORTS_MAX} ports")
        return [
            Target(
                str(item["name"]),
                _expected(item["icmp"]),
                tuple(Port(str(port["port"]), _expected(port)) for port in item["ports"]),
            )
            for item in items
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WardmeshError(
            "not a plan of tests",
            where=source,
            why=f"{type(error).__name__}: {error}",
            remedy="the playbook connectivity.yml writes it",
        ) from error


def _expected(item: Mapping[str, Any]) -> Expected:
    if not isinstance(item["passes"], bool):
        raise TypeError("passes must be true or false")
    return Expected(item["passes"], str(item.get("why", "")))


def judge_test(tested: Outcome, *, encryption: bool) -> list[str]:
    """What differs from what was expected, in words; encryption: whether it is switched on here."""
    target, found = tested.target, []
    pinged = bool(tested.small.answered)
    if pinged != target.icmp.passes:
        found.append(_difference("ping", target.icmp, _said(tested.small)))
    elif pinged and len(tested.small.answered) < len(tested.small.times):
        found.append(f"ping: {tested.small.loss:.0%} lost")
    if tested.large is not None and not tested.large.answered:
        found.append(f"large packets: {tested.large.size} bytes do not pass ({_said(tested.large)})")
    for port in target.ports:
        said = tested.said[port.port]
        if passed(said) != port.expected.passes:
            found.append(_difference(port.port, port.expected, said))
    if encryption and tested.encrypted is False:
        found.append(f"not encrypted: {tested.evidence}")
    return found


def _difference(what: str, expected: Expected, said: str) -> str:
    word = "to pass" if expected.passes else "to be denied"
    why = f" ({expected.why})" if expected.why else ""
    return f"{what}: expected {word}{why}, found: {said}"


def _said(pinged: Pinged) -> str:
    return "answered" if pinged.answered else pinged.problem or "no answer"


def row(own: str, tested: Outcome, differences: list[str]) -> dict[str, Any]:
    """One row of the table; cells are its columns, a word each."""
    target = tested.target
    expected = [(f"ping {_word(target.icmp.passes)}", target.icmp.passes, bool(tested.small.answered))]
    expected += [
        (f"{port.port} {_word(port.expected.passes)}", port.expected.passes, passed(tested.said[port.port]))
        for port in target.ports
    ]
    agreed = all(wish == found for _text, wish, found in expected)
    return {
        "from": own,
        "to": target.name,
        "address": tested.address,
        "ping": _said(tested.small),
        "loss": round(tested.small.loss, 4),
        "rtt": round(min(tested.small.answered), 6) if tested.small.answered else None,
        "large": None if tested.large is None else bool(tested.large.answered),
        "largeBytes": tested.large.size if tested.large is not None else 0,
        "ports": dict(tested.said),
        "encrypted": tested.encrypted,
        "evidence": tested.evidence,
        "expected": {text.rsplit(" ", 1)[0]: wish for text, wish, _found in expected},
        "ok": not differences,
        "differences": differences,
        "cells": {
            "FROM": own,
            "TO": target.name,
            "PING": "answered" if tested.small.answered else _one_word(_said(tested.small)),
            "TCP": ",".join(f"{port[: -len('/tcp')]}:{_one_word(said)}" for port, said in tested.said.items())
            or "-",
            "LARGE": "-" if tested.large is None else _large(tested.large),
            "ENCRYPTED": {True: "yes", False: "NO", None: "unknown"}[tested.encrypted],
            "POLICY": "ok" if agreed else "DIFFERS",
            "RESULT": "DIFFERS" if differences else "ok",
        },
    }


def _word(passes: bool) -> str:
    return "allowed" if passes else "denied"


def _large(pinged: Pinged) -> str:
    return str(pinged.size) if pinged.answered else f"not-{pinged.size}"


def _one_word(said: str) -> str:
    """Cells hold no spaces: who prints the table may fold its lines there."""
    return said.replace(" ", "-")
