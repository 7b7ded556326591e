# SPDX-License-Identifier: Apache-2.0
"""Files that decide, damaged in every way: what is read is a value or an error of ours with its place."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.budget import fuzz
from tests.unit.agent.discovery.samples import claim
from tests.unit.agent.discovery.test_merge import found
from tests.unit.agent.model.test_fleetmap import data as map_bytes
from tests.unit.agent.model.test_fleetmap import document as map_document

from wardmesh.discovery.document import read_discovered, write_discovered
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, canonical, digest_of
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.model.schema import KEYS
from wardmesh.policy.documents import parse_text

# Pieces that YAML gives a meaning to; joined, most are broken, and some are what only its own types refuse.
WORDS = """a b spec kind apiVersion metadata 1 0x_ 0b_ 1_0 1:99 2001-99-99 2001-01-01T99:99:99
.inf .nan 1e999 ~ null true !!int !!float !!bool !!null !!timestamp !!binary !!set !!omap !!pairs !!str
!!python/name:os.system !x &a *a <<: = : - ? | > [ ] { } , # % @ ` ' " \\ --- ... %YAML"""
SPACES = [" ", "\n", "\n  ", ": ", "- ", "? ", "\t", "\u0085", "\ufeff", "\x00", "\ud800", "9" * 4400]
TOKENS = st.sampled_from([*WORDS.split(), *SPACES])
TEXTS = st.lists(TOKENS, max_size=14).map("".join)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.sampled_from(
        ["", "a", "strict", "10.0.0.1", "::1", "10.0.0.0/8", ":4244", "[::]:1", "5s", "a/b", "\ud800"]
    ),
    st.text(max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
READERS: dict[str, Callable[[str], object]] = {
    "configuration": lambda text: parse_config(text, "x.yaml"),
    "policies": lambda text: parse_text(text, "x.yaml"),
}
NESTED = {
    "lists": "- " * 5000,
    "flow lists": "[" * 5000,
    "maps": "{a: " * 5000,
    "questions": "? " * 5000,
    "a date of no calendar": "a: 2001-99-99",
    "a number without digits": "a: 0x_",
    "a number of nothing": "a: !!int",
    "too many digits": "a: " + "9" * 5000,
    "a word that is no boolean": "a: !!bool x",
    "words that are no time": "a: !!timestamp x",
}


def broken(read: Callable[[Any], object], given: Any) -> WardmeshError | None:
    """The error of ours that reading ends with; any other one fails the test."""
    try:
        read(given)
    except WardmeshError as error:
        assert error.what and error.where.startswith("x.yaml"), error
        return error
    return None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED.keys())
def test_what_only_the_yaml_library_refuses_is_an_error_with_its_file(reader: str, text: str) -> None:
    assert broken(READERS[reader], text)


@pytest.mark.parametrize("end", ["[*a9, *a9]", "{x: *a9}"])
def test_an_alias_bomb_is_refused(end: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 10)]
    error = broken(READERS["policies"], "\n".join([*lines, f"end: {end}"]))
    assert error and "aliases" in error.what


def test_an_alias_within_itself_is_refused() -> None:
    error = broken(READERS["policies"], "&a [1, *a]")
    assert error and "within itself" in error.why


@pytest.mark.parametrize("reader", READERS)
@fuzz(120)
@given(text=TEXTS)
def test_any_yaml_is_read_or_refused_with_its_file(reader: str, text: str) -> None:
    broken(READERS[reader], text)


@fuzz(60)
@given(st.dictionaries(st.sampled_from([key.path for key in KEYS]), VALUES, max_size=4))
def test_any_value_of_any_key_is_a_configuration_or_an_error_that_names_it(values: dict[str, Any]) -> None:
    text = json.dumps(values)  # JSON is YAML
    error = broken(READERS["configuration"], text)
    if error is None:
        assert isinstance(parse_config(text, "x.yaml"), Config)
    elif error.what == "invalid configuration":
        assert any(path.partition(".")[0] in error.why for path in values), error


FIELDS = ("name", "key", "addresses", "endpoint", "keepalive", "allowedIPs", "labels", "format", "generation")
FIELDS += ("cluster", "id", "members", "colour")


@st.composite
def altered(draw: Any, document: dict[str, Any]) -> dict[str, Any]:
    """The document with some values at some places replaced; its digest fits, so that all of it is read."""
    made = json.loads(json.dumps(document))
    places = [made, made["cluster"], *made["members"]]
    places += [item["member"] for item in made["members"] if isinstance(item.get("member"), dict)]
    for _change in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places))
        name = draw(st.sampled_from([*place, *FIELDS]))
        place[name] = draw(VALUES)
    try:
        return {**made, "digest": digest_of(made)}
    except (ValueError, UnicodeError):  # a lone surrogate has no bytes, so no digest fits
        return {**made, "digest": "sha256:0"}


@fuzz(200)
@given(altered(map_document()))
def test_any_altered_map_is_a_map_or_an_error_with_its_file(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    if broken(lambda data: parse_fleet_map(data, "x.yaml"), data) is None:
        read = parse_fleet_map(data, "x.yaml")
        assert isinstance(read, FleetMap)
        owners = [ipaddress.ip_network(one) for held in read.members for one in held.addresses]
        assert len(set(owners)) == len(owners)


@fuzz(200)
@given(st.integers(0, 600), st.binary(max_size=4), st.integers(0, 600))
def test_any_damaged_bytes_of_a_map_are_refused_or_say_the_same(start: int, put: bytes, gone: int) -> None:
    whole = map_bytes(map_document())
    data = whole[:start] + put + whole[start + gone :]
    if broken(lambda data: parse_fleet_map(data, "x.yaml"), data) is None:  # white space says nothing
        assert parse_fleet_map(data, "x.yaml") == parse_fleet_map(whole, "x.yaml")


DISCOVERED = json.loads(write_discovered(found(claim(1), claim(2))))


@fuzz(150)
@given(altered(DISCOVERED))
def test_any_altered_copy_of_a_store_is_read_or_refused(document: dict[str, Any]) -> None:
    broken(lambda data: read_discovered(data, "x.yaml"), canonical_or_json(document))


def canonical_or_json(document: dict[str, Any]) -> bytes:
    """As it is written; what has no bytes as JSON writes it."""
    try:
        return canonical(document)
    except (ValueError, UnicodeError):
        return json.dumps(document).encode()
