# SPDX-License-Identifier: Apache-2.0
"""The part of protobuf's wire format that etcd's API needs: no library, no generated code (decision 0020).

A message is a dict. A Spec names its fields: number -> (name, kind), where kind is INT, BYTES, or the Spec of
a message; a list around the kind means that the field repeats. Fields that no Spec names are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

from wardmesh.model.errors import WardmeshError

INT, BYTES = "int", "bytes"
Spec = Mapping[int, "tuple[str, Any]"]
Kind = Union[str, Spec]
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BITS = 64
_DEEPEST = 8


def encode(spec: Spec, message: Mapping[str, Any]) -> bytes:
    """A message's bytes. Fields that the message does not have, or that are zero, are left out."""
    out = bytearray()
    for number, (name, kind) in spec.items():
        value = message.get(name)
        if value is None:
            continue
        repeated = isinstance(kind, list)
        for item in value if repeated else [value]:
            _field(out, number, kind[0] if repeated else kind, item, repeated)
    return bytes(out)


def _field(out: bytearray, number: int, kind: Any, value: Any, keep: bool) -> None:
    if kind == INT:
        if value or keep:
            out += _varint(number << 3 | _VARINT) + _varint(int(value))
        return
    raw = value if kind == BYTES else encode(kind, value)
    if raw or keep or kind != BYTES:  # an empty message says that it is there
        out += _varint(number << 3 | _LENGTH) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    rest = value & (1 << _BITS) - 1
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def decode(spec: Spec, data: bytes, depth: int = 0) -> dict[str, Any]:
    """A message with every field of its Spec: zero, b"", {}, [] where it is missing. Integers are signed."""
    found: dict[str, Any] = {name: _nothing(kind) for name, kind in spec.values()}
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        wire, known = tag & 7, spec.get(tag >> 3)
        value, place = _read(data, place, wire)
        if known is None:
            continue
        name, kind = known
        inner = kind[0] if isinstance(kind, list) else kind
        if (wire == _VARINT) != (inner == INT) or wire not in (_VARINT, _LENGTH):
            raise _broken(f"{name} has wire type {wire}")
        if inner not in (INT, BYTES):
            if depth >= _DEEPEST:
                raise _broken("too deep")
            value = decode(inner, value, depth + 1)
        if isinstance(kind, list):
            found[name].append(value)
        else:
            found[name] = value
    return found


def _nothing(kind: Any) -> Any:
    if isinstance(kind, list):
        return []
    if kind == INT:
        return 0
    return b"" if kind == BYTES else {}


def _read(data: bytes, place: int, wire: int) -> tuple[Any, int]:
    if wire == _VARINT:
        value, place = _read_varint(data, place)
        return (value - (1 << _BITS) if value >> (_BITS - 1) else value), place
    if wire == _LENGTH:
        length, place = _read_varint(data, place)
    elif wire in (_FIXED64, _FIXED32):
        length = 8 if wire == _FIXED64 else 4
    else:
        raise _broken(f"wire type {wire}")
    if place + length > len(data):
        raise _broken("cut short")
    return data[place : place + length], place + length


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise _broken("cut short")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << _BITS) - 1, place
    raise _broken("an endless number")


def _broken(why: str) -> WardmeshError:
    return WardmeshError("not a message of etcd", why=why)
