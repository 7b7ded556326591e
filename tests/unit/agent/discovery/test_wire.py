# SPDX-License-Identifier: Apache-2.0
"""Protobuf's wire format, held against Google's library."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from tests.budget import fuzz

from wardmesh.discovery.wire import BYTES, INT, Spec, decode, encode
from wardmesh.model.errors import WardmeshError

INNER: Spec = {1: ("id", INT), 2: ("data", BYTES)}
OUTER: Spec = {
    1: ("key", BYTES),
    3: ("number", INT),
    4: ("inner", INNER),
    11: ("many", [INNER]),
    300: ("far", INT),
}


def reference() -> Any:
    """The same messages by protobuf's own library."""
    file = descriptor_pb2.FileDescriptorProto(name="wire_test.proto", package="wiretest", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="id", number=1, type=kinds.TYPE_INT64, label=1)
    inner.field.add(name="data", number=2, type=kinds.TYPE_BYTES, label=1)
    outer = file.message_type.add(name="Outer")
    outer.field.add(name="key", number=1, type=kinds.TYPE_BYTES, label=1)
    outer.field.add(name="number", number=3, type=kinds.TYPE_INT64, label=1)
    outer.field.add(name="inner", number=4, type=kinds.TYPE_MESSAGE, type_name=".wiretest.Inner", label=1)
    outer.field.add(name="many", number=11, type=kinds.TYPE_MESSAGE, type_name=".wiretest.Inner", label=3)
    outer.field.add(name="far", number=300, type=kinds.TYPE_INT64, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("wiretest.Outer"))


OUTER_CLASS = reference()
NUMBER = st.integers(-(2**63), 2**63 - 1)
INNERS = st.fixed_dictionaries({"id": NUMBER, "data": st.binary(max_size=200)})
OUTERS = st.fixed_dictionaries(
    {"key": st.binary(max_size=10), "number": NUMBER, "many": st.lists(INNERS, max_size=4), "far": NUMBER},
    optional={"inner": INNERS},
)


@given(OUTERS)
def test_what_is_written_protobuf_reads_and_the_other_way_round(message: dict[str, Any]) -> None:
    theirs = OUTER_CLASS(**message)
    assert OUTER_CLASS.FromString(encode(OUTER, message)) == theirs
    assert decode(OUTER, theirs.SerializeToString()) == {"inner": {}, **message}


@fuzz(100)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_an_error_of_ours(data: bytes) -> None:
    try:
        decode(OUTER, data)
    except WardmeshError as error:
        assert error.why


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x05ab", b"\x08\x01", b"\x18", b"\x1a\x01a", b"\x0b", b"\x18" + b"\xff" * 11, b"\x0d\x00"],
    ids=["short", "int for bytes", "no value", "bytes for int", "group", "endless", "short fixed"],
)
def test_broken_messages_are_errors(data: bytes) -> None:
    with pytest.raises(WardmeshError):
        decode(OUTER, data)


def test_unknown_fields_of_every_kind_are_skipped() -> None:
    assert (
        decode(
            INNER, b"\x98\x06\x01\xa1\x06" + b"8" * 8 + b"\xa5\x06" + b"4" * 4 + b"\xaa\x06\x02hi\x08\x05"
        )["id"]
        == 5
    )


def test_messages_do_not_nest_for_ever() -> None:
    loop: dict[int, Any] = {}
    loop[1] = ("self", loop)
    data = b""
    for _ in range(30):
        data = b"\x0a" + bytes([len(data)]) + data
    with pytest.raises(WardmeshError):
        decode(loop, data)
