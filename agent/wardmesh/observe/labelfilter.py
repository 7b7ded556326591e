# SPDX-License-Identifier: Apache-2.0
"""Label selectors as Kubernetes writes them in one line, with Cilium's sources in front of keys.

`k8s:app=web, env in (prod, stage), !debug`: all requirements of a selector hold. A key without a source, or
with the source any, matches whatever source a label has. (apimachinery, pkg/labels: the grammar.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from wardmesh.model.errors import WardmeshError
from wardmesh.model.labels import NAME, PREFIX

Labels = Mapping[str, Mapping[str, str]]  # key, then source, to value
Requirement = Callable[[Labels], bool]

_TOKEN = re.compile(r"\s*(?:(==|!=|=|!|,|\(|\)|<|>)|([^\s=!,()<>]+))")
_SOURCE = re.compile(r"^[a-zA-Z0-9-]+$")
ANY = "any"
_LONGEST = 4096


def index(labels: Iterable[str]) -> Labels:
    """Labels in the form source:key=value, or key=value, by key and source."""
    found: dict[str, dict[str, str]] = {}
    for label in labels:
        name, _equals, value = label.partition("=")
        source, colon, key = name.partition(":")
        if not colon:
            source, key = "", name
        found.setdefault(key, {})[source] = value
    return found


def parse(text: str) -> Callable[[Labels], bool]:
    """A selector to a test of indexed labels, or WardmeshError. The empty one selects everything."""
    if len(text) > _LONGEST:
        raise _wrong(text[:40], "it is too long")
    tokens = _tokens(text)
    requirements: list[Requirement] = []
    place = 0
    while place < len(tokens):
        requirement, place = _requirement(tokens, place, text)
        requirements.append(requirement)
        if place < len(tokens):
            if tokens[place] != ",":
                raise _wrong(text, f"unexpected {tokens[place]!r}")
            place += 1
            if place == len(tokens):
                raise _wrong(text, "nothing follows the last comma")
    return lambda labels: all(requirement(labels) for requirement in requirements)


def _wrong(text: str, why: str) -> WardmeshError:
    return WardmeshError(f"{text!r} is no label selector", why=why, remedy="write key=value or key in (a, b)")


def _tokens(text: str) -> list[str]:
    found, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _wrong(text, f"cannot read {text[place:]!r}")
        found.append(match[1] or match[2])
        place = match.end()
    return found


def _requirement(tokens: list[str], place: int, text: str) -> tuple[Requirement, int]:
    def token(at: int) -> str:
        return tokens[at] if at < len(tokens) else ""

    if token(place) == "!":
        held = _held(token(place + 1), text)
        return (lambda labels: not held(labels)), place + 2
    held, operator = _held(token(place), text), token(place + 1)
    if operator in ("", ","):
        return (lambda labels: bool(held(labels))), place + 1
    if operator in ("=", "==", "!="):
        value = token(place + 2)
        if value in (",", ""):  # key= is the empty value
            return _inside(held, frozenset({""}), operator != "!="), place + 2
        return _inside(held, frozenset({_value(value, text)}), operator != "!="), place + 3
    if operator in ("<", ">"):
        return _compare(held, operator, token(place + 2), text), place + 3
    if operator in ("in", "notin"):
        values, place = _values(tokens, place + 2, text)
        return _inside(held, values, operator == "in"), place
    raise _wrong(text, f"unknown operator {operator!r}")


def _held(word: str, text: str) -> Callable[[Labels], list[str]]:
    """The values that labels have under a key: none where it is absent."""
    source, colon, key = word.partition(":")
    if not colon:
        source, key = ANY, word
    prefix, slash, name = key.rpartition("/")
    good = _SOURCE.match(source) and NAME.match(name) and (PREFIX.match(prefix) if slash else True)
    if not good:
        raise _wrong(text, f"{word!r} is no label key" if word else "a key is missing")
    if source == ANY:
        return lambda labels: list(labels.get(key, {}).values())
    return lambda labels: [value for known, value in labels.get(key, {}).items() if known == source]


def _value(word: str, text: str) -> str:
    if not NAME.match(word):
        raise _wrong(text, f"{word!r} is no label value")
    return word


def _inside(held: Callable[[Labels], list[str]], values: frozenset[str], wanted: bool) -> Requirement:
    """notin and != hold where the key is absent."""
    return lambda labels: any(value in values for value in held(labels)) is wanted


def _compare(held: Callable[[Labels], list[str]], operator: str, word: str, text: str) -> Requirement:
    if not re.fullmatch(r"-?[0-9]{1,18}", word):
        raise _wrong(text, f"{word!r} is no whole number")
    bound = int(word)

    def holds(labels: Labels) -> bool:
        numbers = [int(value) for value in held(labels) if re.fullmatch(r"-?[0-9]{1,18}", value)]
        return any(number > bound if operator == ">" else number < bound for number in numbers)

    return holds


def _values(tokens: list[str], place: int, text: str) -> tuple[frozenset[str], int]:
    if place >= len(tokens) or tokens[place] != "(":
        raise _wrong(text, "values stand in brackets")
    found: set[str] = set()
    word = ""
    for at in range(place + 1, len(tokens)):
        token = tokens[at]
        if token in (",", ")"):
            found.add(word)
            word = ""
            if token == ")":
                return frozenset(found), at + 1
        elif word:
            raise _wrong(text, "values have commas between them")
        else:
            word = _value(token, text)
    raise _wrong(text, "the bracket is not closed")
