# SPDX-License-Identifier: Apache-2.0
"""Stores for the tests. The folder is on the path, as tests/lab is for its package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agents import follower
from etcd_server import Etcd


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff in tests: the order of things is the same, the waiting is shorter."""
    monkeypatch.setattr(follower, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(follower, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(follower, "AGAIN", 0.3)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One server without TLS."""
    made = Etcd(tmp_path).start()
    yield made
    made.end()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Etcd]:
    """Three servers without TLS."""
    made = Etcd(tmp_path, 3).start()
    yield made
    made.end()


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Etcd]:
    """One server with TLS, where a certificate's name is the user."""
    made = Etcd(tmp_path, tls=True).start()
    made.ctl("user", "add", "root", "--no-password")
    made.ctl("user", "grant-role", "root", "root")
    made.ctl("auth", "enable")
    yield made
    made.end()
