# SPDX-License-Identifier: Apache-2.0
"""The rollout's barrier: `wardmesh encryption mode prefer|strict`."""

from __future__ import annotations

from typing import Any

from wardmesh.daemon.engine import Engine, listed
from wardmesh.daemon.log import LOG
from wardmesh.daemon.state import PREFER, STRICT, ModeState
from wardmesh.model.errors import WardmeshError

# Without these, strict would promise what nobody keeps.
_NEEDED = ("devices", "guard programs", "guard", "wireguard backend", "wireguard", "routing")


def set_mode(engine: Engine, mode: str, *, everybody: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Strict seals every member whose tunnel is up (everybody: all members); prefer unseals all.

    In a host that is strict already, strict changes nothing more: members that come later are sealed by the
    agent itself. Returns changed, mode, sealed (names) and unverified (names whose tunnel is not up).
    """
    mesh = engine.mesh
    if mesh is None:
        raise WardmeshError(
            "there is no mesh on this host",
            where=str(engine.paths.fleet),
            why="encryption is switched off" if engine.inputs.fleet else "no fleet map yet",
            remedy="run the playbook",
        )
    if mode == STRICT:
        _check_strict(engine)
    state, unverified = engine.effective(), frozenset(engine.unverified())
    target = ModeState()
    if mode == STRICT and state.mode == STRICT and not everybody:
        target = state
    elif mode == STRICT:
        fresh = mesh.member_names if everybody else mesh.member_names - unverified
        target = ModeState(STRICT, state.sealed | fresh)
    if not dry_run:
        engine.persist(target)
        if target != state:
            LOG.info("wireguard: mode %s, sealed: %s", target.mode, listed(target.sealed) or "nobody")
            engine.reconcile()
            if mode == STRICT:
                _raise_problem(engine)  # it stays sealed: rather cut off than in plain text
    return {
        "changed": target != state,
        "mode": target.mode,
        "sealed": sorted(target.sealed),
        "unverified": sorted(unverified),
    }


def _check_strict(engine: Engine) -> None:
    if engine.inputs.config.encryption.mode == PREFER:
        raise WardmeshError(
            "the configuration wishes prefer",
            where=f"{engine.paths.config}: encryption.mode",
            remedy="set encryption.mode: strict and reload first",
        )
    _raise_problem(engine)


def _raise_problem(engine: Engine) -> None:
    for stage in _NEEDED:
        if stage in engine.stages.problems:
            raise engine.stages.problems[stage]
