# SPDX-License-Identifier: Apache-2.0
"""The barrier of a rotation: `wardmesh encryption rotate --phase activate`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wardmesh.daemon.engine import Engine, listed
from wardmesh.daemon.log import LOG
from wardmesh.daemon.second import DEVICE, PEERS
from wardmesh.model.errors import WardmeshError


def report(engine: Engine) -> dict[str, Any]:
    """Where this host stands in a rotation of keys (see SecondTunnel.report)."""
    return engine.second.report(engine.mesh, engine.inputs.config, engine.first_up)


def activate(engine: Engine, *, dry_run: bool = False) -> dict[str, Any]:
    """From now on send through the second tunnel to every member to which it is up, or comes up.

    Returns changed and the report. Nothing is changed on a host that was told before.
    """
    mesh, second = engine.mesh, engine.second
    if mesh is None or not second.rotating(mesh):
        raise WardmeshError(
            "no keys rotate on this host",
            where=str(engine.paths.fleet),
            why="the fleet map names no next key" if mesh is not None else "there is no mesh",
            remedy="run playbooks/rotate_keys.yml, which stages them",
        )
    for stage in (DEVICE, PEERS):
        if stage in engine.stages.problems:
            raise engine.stages.problems[stage]
    changed = not second.state.active
    if changed and not dry_run:
        second.persist(replace(second.state, active=True))
        LOG.info("wireguard: told to use the second tunnel with: %s", listed(second.rotating(mesh)))
        engine.reconcile()
    return {"changed": changed, **report(engine)}
