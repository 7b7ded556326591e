# SPDX-License-Identifier: Apache-2.0
"""Messages in the JSON form of Hubble's clients: names as in the .proto files, enums by name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.needs import need
from wardmesh.observe.proto import message

LONGEST_LINE = 1 << 20


def to_json(made: Any) -> str:
    """A message as one line, without its end."""
    form = need("google.protobuf.json_format")
    document = form.MessageToDict(made, preserving_proto_field_name=True)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def from_json(text: str, name: str, where: str = "") -> Any:
    """A line to the message of this full name, or WardmeshError. Unknown fields are skipped."""
    form = need("google.protobuf.json_format")
    try:
        return form.Parse(text, message(name)(), ignore_unknown_fields=True)
    except (form.ParseError, RecursionError) as error:
        raise WardmeshError(
            f"this is no {name} in JSON", where=where, why=str(error).splitlines()[0][:200]
        ) from error


def filter_of(text: str, where: str) -> Any:
    """A FlowFilter in JSON, strictly: a field that is not known would let through more than was meant."""
    form = need("google.protobuf.json_format")
    try:
        return form.Parse(text, message("flow.FlowFilter")())
    except (form.ParseError, RecursionError) as error:
        raise WardmeshError(
            f"{text!r} is no filter",
            where=where,
            why=str(error).splitlines()[0][:200],
            remedy='write JSON such as {"verdict": ["DROPPED"]}',
        ) from error


def filters_of(texts: Iterable[str], where: str) -> list[Any]:
    """A list of them."""
    return [filter_of(text, f"{where}[{place}]") for place, text in enumerate(texts)]
