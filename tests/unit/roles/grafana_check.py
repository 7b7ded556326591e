# SPDX-License-Identifier: Apache-2.0
"""Is a document a dashboard? Judged by Grafana's own models, as its foundation SDK generates them for Python.

The SDK reads leniently, so three things are held against each other: it can read the document at
all; everything that was read has the type that the models declare; and writing it again loses nothing (an
unknown key would be lost).
"""

from __future__ import annotations

import enum
import json
import typing
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()


def complaints(document: Any) -> list[str]:
    """What is wrong with a dashboard; empty where nothing is."""
    try:
        read = Dashboard.from_json(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return [f"cannot be read: {error!r}"]
    written = json.loads(JSONEncoder().encode(read))
    return [*_types(read, Dashboard, ""), *_lost(document, written, "")]


def _lost(given: Any, kept: Any, place: str) -> list[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        gone = [f"{place}/{key}: no such key" for key in given if key not in kept]
        return [
            *gone,
            *(row for key in given if key in kept for row in _lost(given[key], kept[key], f"{place}/{key}")),
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [
            row
            for number, pair in enumerate(zip(given, kept, strict=True))
            for row in _lost(*pair, f"{place}/{number}")
        ]
    return [] if given == kept else [f"{place}: {given!r} became {kept!r}"]


def _types(value: Any, hint: Any, place: str) -> list[str]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any or isinstance(hint, typing.TypeVar):
        return []
    if origin is typing.Union:
        if value is None and type(None) in parts:
            return []
        found = [_types(value, part, place) for part in parts if part is not type(None)]
        return [] if [] in found else min(found, key=len)
    if origin is typing.Literal:
        return [] if value in parts else [f"{place}: {value!r} is none of {parts}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{place}: {value!r} is no list"]
        return [
            row for number, item in enumerate(value) for row in _types(item, parts[0], f"{place}/{number}")
        ]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{place}: {value!r} is no map"]
        return [row for key, item in value.items() for row in _types(item, parts[1], f"{place}/{key}")]
    return _plain(value, hint, place)


def _plain(value: Any, hint: type, place: str) -> list[str]:
    if hint is type(None):
        return [] if value is None else [f"{place}: {value!r} where nothing may be"]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return []
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return (
            []
            if value in [member.value for member in hint]
            else [f"{place}: {value!r} is no {hint.__name__}"]
        )
    if hint in (bool, int, float, str, object):
        good = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        return [] if good else [f"{place}: {value!r} is no {hint.__name__}"]
    if isinstance(value, (dict, list, str, int, float)) or value is None:
        return [f"{place}: {value!r} is no {hint.__name__}"]
    hints = typing.get_type_hints(type(value))
    return [
        row for name, part in hints.items() for row in _types(getattr(value, name), part, f"{place}/{name}")
    ]
