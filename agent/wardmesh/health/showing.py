# SPDX-License-Identifier: Apache-2.0
"""Pure: what a host shows of itself in the store: its digest, and how it reaches its peers.

Bounded, and without anything that changes by itself: a store of thousands of hosts is written to when
something happened. Figures of peers are rounded, and only renewed now and then; states count at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wardmesh.health.drift import LARGEST, Report, clean, report_of
from wardmesh.health.record import UNREACHABLE
from wardmesh.model.errors import WardmeshError

FORMAT = 1
MOST_PEERS = 256  # rows; those that are not reached come first
REFRESH = 300.0  # seconds until figures are written anew though no state changed
_FIGURES = ("latency", "loss", "jitter")


def health_document(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Peers of `GET /v1/health`, short; empty where nobody checks them. Latency and jitter in seconds."""
    if not found or "peers" not in found:
        return {}
    rows = sorted(found["peers"], key=lambda row: (row["state"] != UNREACHABLE, row["name"]))
    peers = {
        row["name"]: {
            "state": row["state"],
            "path": row["path"],
            **{name: round(row[name], 4) for name in _FIGURES if row[name] is not None},
        }
        for row in rows[:MOST_PEERS]
    }
    return {"counts": dict(found["counts"]), "peers": peers}


def states(health: Mapping[str, Any]) -> dict[str, str]:
    """Who is in which state: what counts at once."""
    return {name: row["state"] for name, row in health.get("peers", {}).items()}


class Shown:
    """Decides what is shown. The bytes stay the same for as long as nothing happened."""

    def __init__(self) -> None:
        self._health: dict[str, Any] = {}
        self._until = 0.0

    def of(self, digest: Mapping[str, Any], health: Mapping[str, Any], now: float) -> bytes:
        """The value for the store; now in seconds of the monotonic clock."""
        if now >= self._until or states(health) != states(self._health):
            self._health, self._until = dict(health), now + REFRESH
        found = {"format": FORMAT, "digest": digest, "health": self._health}
        return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_shown(host: str, data: bytes) -> tuple[Report, dict[str, Any]]:
    """Report and health of a host; a value that cannot be read is a report with a problem."""
    try:
        if len(data) > 2 * LARGEST:
            raise ValueError("too long")
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("another format")
        return report_of(found.get("digest"), host), _peers(found.get("health"))
    except (ValueError, RecursionError, WardmeshError) as error:
        why = error.why if isinstance(error, WardmeshError) else str(error)
        return Report(host, problem=f"what it wrote into the store cannot be read: {clean(why)}"), {}


def _peers(health: Any) -> dict[str, Any]:
    """Name to state, as far as it is well formed."""
    peers = health.get("peers") if isinstance(health, dict) else None
    if not isinstance(peers, dict):
        return {}
    found = {}
    for name, row in list(peers.items())[:MOST_PEERS]:
        if isinstance(row, dict):
            figures = {key: row[key] for key in _FIGURES if isinstance(row.get(key), (int, float))}
            words = {key: clean(row.get(key, "")) for key in ("state", "path")}
            found[clean(name)] = {**words, **figures}
    return found
