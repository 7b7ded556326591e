# SPDX-License-Identifier: Apache-2.0
"""The encoding of netlink; what the kernel says to it is in tests/netns."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.budget import fuzz

from wardmesh.datapath import contract
from wardmesh.host import netlink
from wardmesh.wireguard import mark

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="netlink is Linux's")


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=70))))
def test_attributes_come_back_as_they_went_in(items: list[tuple[int, bytes]]) -> None:
    packed = b"".join(netlink.attr(kind, data) for kind, data in items)
    assert [(kind, bytes(data)) for kind, data in netlink.walk(packed)] == items
    assert len(packed) % 4 == 0


@fuzz(100)
@given(st.binary(max_size=200))
def test_damaged_attributes_end_the_walk(data: bytes) -> None:
    assert sum(len(value) + 4 for _kind, value in netlink.walk(data)) <= len(data)


def test_nested_attributes_and_numbers() -> None:
    packed = netlink.nest(8, netlink.attr_u8(1, 7), netlink.attr_u16(2, 51871), netlink.attr_u32(3, 0x1E00))
    ((kind, inner),) = netlink.walk(packed)
    found = netlink.attrs(inner)
    assert kind == 8
    assert [netlink.number(found[place]) for place in (1, 2, 3)] == [7, 51871, 0x1E00]
    assert netlink.number(b"") == 0
    assert netlink.text(netlink.attrs(netlink.attr_text(3, "eth0"))[3]) == "eth0"


def test_the_numbers_shared_with_the_datapath_are_the_same() -> None:
    assert (mark.MARK, mark.MARK_MASK) == (contract.MARK, contract.MARK_MASK)


def test_a_refusal_names_its_reason() -> None:
    with netlink.Netlink() as link, pytest.raises(OSError, match=r".") as caught:
        link.request(netlink.Message(16, 0, bytes(3)))
    assert caught.value.errno
