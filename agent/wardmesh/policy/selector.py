# SPDX-License-Identifier: Apache-2.0
"""Label selectors: matchLabels and matchExpressions, with sources in front of keys (DESIGN §6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from wardmesh.model.labels import NAME, PREFIX
from wardmesh.policy.reading import Place

ANY = "any"
RESERVED = "reserved"
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_SOURCE = re.compile(r"^[a-z][a-z0-9-]*$")

Labels = Mapping[str, Mapping[str, str]]  # key, then source, to value


@dataclass(frozen=True)
class Requirement:
    """One condition on one key. values: sorted, empty for Exists and DoesNotExist."""

    source: str
    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Labels) -> bool:
        """NotIn and DoesNotExist hold where the key is absent."""
        found = labels.get(self.key, {})
        held = list(found.values()) if self.source == ANY else [found[s] for s in found if s == self.source]
        if self.operator == "Exists":
            return bool(held)
        if self.operator == "DoesNotExist":
            return not held
        inside = any(value in self.values for value in held)
        return inside if self.operator == "In" else not inside

    def __str__(self) -> str:
        key = self.key if self.source == ANY else f"{self.source}:{self.key}"
        if self.operator == "In" and len(self.values) == 1:
            return f"{key}={self.values[0]}"
        shown = f" ({', '.join(self.values)})" if self.values else ""
        return f"{key} {self.operator}{shown}"


@dataclass(frozen=True)
class Selector:
    """All requirements must hold; without any it selects everything that it is asked about."""

    requirements: tuple[Requirement, ...] = ()

    @property
    def names_reserved(self) -> bool:
        """Does a key have the source reserved? Then the selector may match what is no member."""
        return any(item.source == RESERVED for item in self.requirements)

    def matches(self, labels: Labels) -> bool:
        """Do these labels meet every requirement?"""
        return all(item.holds(labels) for item in self.requirements)

    def __str__(self) -> str:
        return ", ".join(map(str, self.requirements)) or "{}"


def index_labels(labels: frozenset[str]) -> Labels:
    """Labels in the form source:key=value by key and source."""
    found: dict[str, dict[str, str]] = {}
    for label in labels:
        source, _colon, rest = label.partition(":")
        key, _equals, value = rest.partition("=")
        found.setdefault(key, {})[source] = value
    return found


def split_key(text: str) -> tuple[str, str]:
    """Source and key; any without a source."""
    source, colon, key = text.partition(":")
    return (source, key) if colon else (ANY, text)


def _key(place: Place, text: str) -> tuple[str, str]:
    source, key = split_key(text)
    prefix, slash, name = key.rpartition("/")
    good = _SOURCE.match(source) and NAME.match(name) and (PREFIX.match(prefix) if slash else True)
    if not good:
        place.fail(f"invalid label selector: {text!r} is no label key", "letters, digits, '-', '_', '.'")
    return source, key


def _value(place: Place) -> str:
    value = place.text()
    if value and not NAME.match(value):
        place.fail(
            f"invalid label selector: {value!r} is no label value",
            "at most 63 letters, digits, '-', '_', '.', beginning and ending with a letter or digit",
        )
    return value


def _expression(place: Place) -> Requirement:
    place.mapping(("key", "operator", "values"))
    source, key = _key(place.at("key"), place.at("key").text())
    word = place.at("operator").text()
    # Cilium's published examples also write "in": the letter's case makes no difference.
    operator = next((name for name in OPERATORS if name.lower() == word.lower()), "")
    if not operator:
        place.at("operator").fail(f"invalid label selector: unknown operator {word!r}", " ".join(OPERATORS))
    values = tuple(sorted({_value(item) for item in place.at("values").items()}))
    if operator in ("In", "NotIn") and not values:
        place.at("values").fail(f"invalid label selector: values must be given with the operator {operator}")
    if operator in ("Exists", "DoesNotExist") and values:
        place.at("values").fail(
            f"invalid label selector: no values may be given with the operator {operator}"
        )
    return Requirement(source, key, operator, values)


def parse_selector(place: Place) -> Selector:
    """A selector as it stands in a document."""
    place.mapping(("matchLabels", "matchExpressions"))
    found: list[Requirement] = []
    labels = place.at("matchLabels")
    if labels.value is not None:
        if not isinstance(labels.value, dict):
            labels.fail("expected a map of labels")
        for text in labels.value:
            item = labels.at(str(text))
            source, key = _key(item, str(text))
            found.append(Requirement(source, key, "In", (_value(item),)))
    found += [_expression(item) for item in place.at("matchExpressions").items()]
    return Selector(tuple(found))
