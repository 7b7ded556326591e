# SPDX-License-Identifier: Apache-2.0
"""Preflight's question to other hosts: a refusal is an answer, silence is not."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "plugins/module_utils/_checks.py"
_spec = importlib.util.spec_from_file_location("wardmesh_checks", SOURCE)
assert _spec and _spec.loader
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)


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
