# SPDX-License-Identifier: Apache-2.0
"""Echo requests and what may come back."""

from __future__ import annotations

import random
import struct

import pytest

from wardmesh.health.icmp import checksum, parse_reply, request

TOKEN = b"12345678"


def reply(version: int, sequence: int, token: bytes = TOKEN, code: int = 0) -> bytes:
    return struct.pack("!BBHHH", {4: 0, 6: 129}[version], code, 0, 7, sequence) + token


def test_checksum_is_that_of_the_rfc() -> None:
    packet = request(4, 1, 2, b"odd")
    assert checksum(packet) == 0 and checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


@pytest.mark.parametrize("version", [4, 6])
def test_our_answers_are_known(version: int) -> None:
    assert parse_reply(version, reply(version, 65535), TOKEN, raw=False) == 65535


def test_raw_sockets_of_ipv4_show_the_header() -> None:
    header = bytes([0x46]) + bytes(23)  # with options
    assert parse_reply(4, header + reply(4, 9), TOKEN, raw=True) == 9
    assert parse_reply(6, reply(6, 9), TOKEN, raw=True) == 9


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 7, request(4, 1, 1, TOKEN), reply(4, 1, b"87654321"), reply(4, 1, code=3), reply(6, 1)],
)
def test_everything_else_is_nothing(data: bytes) -> None:
    assert parse_reply(4, data, TOKEN, raw=False) is None


def test_noise_is_never_an_answer() -> None:
    chance = random.Random(1)
    for _turn in range(2000):
        data = bytes(chance.randrange(256) for _byte in range(chance.randrange(64)))
        for version in (4, 6):
            for raw in (False, True):
                assert parse_reply(version, data, TOKEN, raw=raw) is None
