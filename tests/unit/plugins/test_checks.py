# SPDX-License-Identifier: Apache-2.0
"""Preflight's question to other hosts: a refusal is an answer, silence is not."""

from __future__ import annotations

import socket

import pytest
from tests.loading import load

checks = load("plugins/module_utils/_checks.py")


def test_silence_is_told_and_a_refusal_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert checks.unreachable(["127.0.0.1"], port=port) == []
    assert checks.unreachable(["127.0.0.1"], port=port) == []
    # Documentation's own network: no route, or no answer.
    assert checks.unreachable(["192.0.2.77", "127.0.0.1"], seconds=0.2, port=port) == ["192.0.2.77"]


@pytest.mark.parametrize(
    ("text", "good"), [("10.0.0.1", True), ("fd00::1", True), ("web1", False), ("", False)]
)
def test_only_addresses_are_asked(text: str, good: bool) -> None:
    assert checks.literal(text) is good


@pytest.mark.parametrize("port", [20871, 65535])
def test_a_taken_second_port_is_advice_only(port: int) -> None:
    beside = port + 1 if port < 65535 else port - 1
    warnings: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", beside))
        checks.second_port_advice(port, warnings)
    assert len(warnings) == 1 and str(beside) in warnings[0]
    checks.second_port_advice(port, warnings)
    assert len(warnings) == 1
