# SPDX-License-Identifier: Apache-2.0
"""YAML as an operator means it: no duplicate keys, no bombs, every error of the library as one of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from wardmesh.model.errors import WardmeshError

VALUES_MAX = 2_000_000  # of a document with its aliases written out; 10,000 policies have some 300,000

# What PyYAML's own constructors and its recursion raise at text such as `2001-99-99`, `0x_`, `!!bool x`.
_OF_THE_LIBRARY = (ValueError, LookupError, AttributeError, TypeError, RecursionError, OverflowError)
DEPTH_MAX = 64  # of lists and maps within each other; PyYAML's time grows with the square of it


def strict_mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    """A constructor of maps for a loader; keys are plain words, each there once."""
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.constructor.ConstructorError(
                None, None, "key is not a plain word", key_node.start_mark
            )
        if key in found:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


@contextmanager
def yaml_errors(source: str) -> Iterator[None]:
    """Around loading alone: whatever the library raises becomes a WardmeshError with its place."""
    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        why = str(getattr(error, "problem", "") or error).splitlines()[0]
        raise WardmeshError("broken YAML", where=place, why=why, remedy="correct the file") from error
    except _OF_THE_LIBRARY as error:
        nested = isinstance(error, RecursionError)
        why = "nested too deeply" if nested else f"a value that cannot be read: {error}"
        raise WardmeshError("broken YAML", where=source, why=why, remedy="correct the file") from error


def check_plain(text: str, source: str) -> None:
    """Refuse aliases, and nesting that costs minutes to read. Call it within yaml_errors."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise WardmeshError(
                "broken YAML", where=source, why="nested too deeply", remedy="correct the file"
            )
        if isinstance(event, yaml.AliasEvent):
            raise WardmeshError(
                "YAML aliases are not accepted", where=source, remedy="write the value out where it is used"
            )


def check_size(document: Any, source: str) -> None:
    """Refuse what aliases blow up, or tie into a ring. Each value is looked at once: a bomb costs nothing."""
    sizes: dict[int, int] = {}
    open_ones: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(document, False)]
    while waiting:
        value, left = waiting.pop()
        if not isinstance(value, (dict, list)) or (id(value) in sizes and not left):
            continue
        inner = [*value.values()] if isinstance(value, dict) else value
        if not left:
            if id(value) in open_ones:
                raise _too_large(source, "an alias stands within itself")
            open_ones.add(id(value))
            waiting.append((value, True))
            waiting += [(item, False) for item in inner]
            continue
        open_ones.discard(id(value))
        size = 1 + sum(sizes.get(id(item), 1) for item in inner)
        if size > VALUES_MAX:
            raise _too_large(source, f"with its aliases it has more than {VALUES_MAX} values")
        sizes[id(value)] = size


def _too_large(source: str, why: str) -> WardmeshError:
    return WardmeshError("YAML aliases that lead too far", where=source, why=why, remedy="write values out")
