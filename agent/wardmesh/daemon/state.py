# SPDX-License-Identifier: Apache-2.0
"""What the agent must remember over a restart: the mode in force and who is sealed, and, while keys rotate,
with whom there is a second tunnel."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.model.errors import WardmeshError

PREFER, STRICT = "prefer", "strict"


@dataclass(frozen=True)
class ModeState:
    """mode: prefer or strict; sealed: names of members that are reached through the tunnel or not at all."""

    mode: str = PREFER
    sealed: frozenset[str] = frozenset()

    def seals(self, name: str) -> bool:
        """Does only the tunnel count for this member?"""
        return self.mode == STRICT and name in self.sealed

    def within(self, names: frozenset[str], wish: str) -> ModeState:
        """What is in force for a map of these members under a configured mode.

        Who left the map is forgotten: coming back it is a new member. The wish prefer unseals everybody.
        """
        if wish == PREFER and self.mode == STRICT:
            return ModeState()
        return replace(self, sealed=self.sealed & names)


def load_state(path: Path) -> ModeState:
    """The remembered state. A damaged file is an error, because guessing could open the host."""
    data = read_bytes(path)
    if data is None:
        return ModeState()
    try:
        document = json.loads(data)
        mode, sealed = document["mode"], document["sealed"]
        if mode not in (PREFER, STRICT) or not isinstance(sealed, list):
            raise ValueError(f"mode {mode!r}, sealed {type(sealed).__name__}")
        return ModeState(mode, frozenset(map(str, sealed)))
    except (ValueError, KeyError, TypeError) as error:
        raise WardmeshError(
            "damaged state file; every member counts as sealed meanwhile",
            where=str(path),
            why=repr(error),
            remedy="remove the file, then: wardmesh encryption mode strict (or prefer)",
        ) from error


def save_state(path: Path, state: ModeState) -> None:
    """Persist before the kernel is told: after a crash the host is at least as strict as it was."""
    document = {"mode": state.mode, "sealed": sorted(state.sealed)}
    write_atomic(path, json.dumps(document, sort_keys=True).encode() + b"\n", 0o600)


@dataclass(frozen=True)
class RotationState:
    """active: the host was told to send through the second tunnel; pairs: names of members that have one with
    this host. It outlives the map that asked for it, until the last of them is seen to have left it."""

    active: bool = False
    pairs: frozenset[str] = frozenset()


def load_rotation(path: Path) -> RotationState | None:
    """The remembered state; None where the file is damaged."""
    data = read_bytes(path)
    if data is None:
        return RotationState()
    try:
        document = json.loads(data)
        active, pairs = document["active"], document["pairs"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(active, bool) or not isinstance(pairs, list):
        return None
    return RotationState(active, frozenset(map(str, pairs)))


def save_rotation(path: Path, state: RotationState) -> None:
    """Persist before the kernel is told."""
    document = {"active": state.active, "pairs": sorted(state.pairs)}
    write_atomic(path, json.dumps(document, sort_keys=True).encode() + b"\n", 0o600)
