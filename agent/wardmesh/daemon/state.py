# SPDX-License-Identifier: Apache-2.0
"""What the agent must remember over a restart: the mode in force and who is sealed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.model.errors import WardmeshError


@dataclass(frozen=True)
class ModeState:
    """mode: prefer or strict; sealed: names of members that are reached through the tunnel or not at all."""

    mode: str = "prefer"
    sealed: frozenset[str] = frozenset()

    def keep(self, names: frozenset[str]) -> ModeState:
        """Forget members that left the map."""
        return replace(self, sealed=self.sealed & names)


def load_state(path: Path) -> ModeState:
    """The remembered state; a damaged file is an error, because guessing could open the host."""
    data = read_bytes(path)
    if data is None:
        return ModeState()
    try:
        document = json.loads(data)
        return ModeState(str(document["mode"]), frozenset(map(str, document["sealed"])))
    except (ValueError, KeyError, TypeError) as error:
        raise WardmeshError(
            "damaged state file",
            where=str(path),
            why=repr(error),
            remedy="restore it, or remove it and run the playbook (its strict step seals again)",
        ) from error


def save_state(path: Path, state: ModeState) -> None:
    """Persist before the kernel is told: after a crash the host is at least as strict as it was."""
    document = {"mode": state.mode, "sealed": sorted(state.sealed)}
    write_atomic(path, json.dumps(document, sort_keys=True).encode() + b"\n", 0o600)
