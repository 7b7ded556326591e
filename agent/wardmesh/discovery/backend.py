# SPDX-License-Identifier: Apache-2.0
"""What every store is asked for. Each call raises WardmeshError when the store does not do it in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from wardmesh.model.errors import WardmeshError


@dataclass(frozen=True)
class Entry:
    """A key as the store holds it. created, changed: revisions, which only grow; lease: 0 is none."""

    key: str
    value: bytes
    created: int
    changed: int
    lease: int = 0


@dataclass(frozen=True)
class Change:
    """A key and what it became; entry None: it is gone."""

    key: str
    entry: Entry | None


class Backend(Protocol):
    """A connection to one of a store's servers, for one thread. After an error: close, and open another."""

    where: str

    def snapshot(self, prefix: str) -> list[Entry]:
        """Every key below a prefix at one revision that a majority agrees on; changes follow from there."""

    def changes(self, timeout: float) -> list[Change]:
        """What changed since the snapshot or the last call; empty when nothing did within so many seconds."""

    def get(self, key: str) -> Entry | None:
        """One key, as a majority has it."""

    def put(self, key: str, value: bytes) -> int:
        """Write a key under this connection's lease, which is made when there is none; returns its number."""

    def renew(self) -> bool:
        """Keep the lease alive; False where it is gone, and its keys with it."""

    def close(self) -> None:
        """Let go. The lease lives on until its time is up: another connection may take the key over."""


def unavailable(where: str, why: str) -> WardmeshError:
    """The error of a store that does not answer, or not as it should."""
    return WardmeshError(
        "the store does not serve",
        where=where,
        why=why,
        remedy="the last members stay in force; look at the store's own log",
    )
