# SPDX-License-Identifier: Apache-2.0
"""A host with a store changes its key by itself: encryption.keyRotation.

    due        its key is old enough, the store is there, nothing else rotates: a next key is staged
    rotating   its record names that key; every member brings up a second tunnel with this host and sends
               through it as soon as it is up (wireguard/rotation.py), and so does this host
    over       from every member that can be reached, nothing came through the first tunnel for a while: the
               next key takes the old one's place, and the record says so

Only the worker's thread calls it, after each pass.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.engine import Engine, listed
from wardmesh.daemon.log import LOG
from wardmesh.daemon.own_keys import changes_keys
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.keys import is_handed_over, promote, publish, stage_next
from wardmesh.wireguard.rotation import Silence

SPREAD = 0.1  # of the interval, by which hosts of one rollout drift apart
REST = 30.0  # seconds after a rotation of somebody until this host begins one


class SelfRotation:
    """store: what the follower of the store says of itself."""

    def __init__(
        self,
        paths: Paths,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._paths = paths
        self._engine = engine
        self.store: Callable[[], dict[str, Any]] = dict
        self._clock, self._wall = clock, wall
        self._silence = Silence()
        self._moved: frozenset[str] = frozenset()
        self._busy_at = clock()
        self._told = ""

    def step(self) -> None:
        """Do what is due."""
        engine, now = self._engine, self._clock()
        mesh = engine.mesh
        if mesh is None or not changes_keys(engine.inputs.config):
            return
        if engine.second.pairs(mesh):
            self._busy_at = now
        if mesh.own.name in mesh.by_themselves:
            self._finish(mesh, now)
        elif self._due(mesh, now):
            self.begin()

    def begin(self, *, dry_run: bool = False) -> bool:
        """Stage a key and tell the others; False where this host is rotating already."""
        mesh = self._allowed()
        if mesh.own.name in mesh.by_themselves:
            return False
        if dry_run:
            return True
        known = stage_next(self._paths, dry_run=False, by_itself=True)
        publish(self._paths)
        self._silence, self._moved = Silence(), frozenset()
        LOG.info("wireguard: the key rotates: %s… is staged", (known.public_key or "")[:10])
        self._engine.rediscover()
        return True

    def _allowed(self) -> Mesh:
        engine, mesh = self._engine, self._engine.mesh
        if mesh is None or not changes_keys(engine.inputs.config):
            why = "encryption.keyRotation and a store are needed for that"
        else:
            why = self._hindrance(mesh)
        if why or mesh is None:
            raise WardmeshError(
                "this host cannot rotate its key by itself now",
                where=str(self._paths.config),
                why=why,
                remedy="run playbooks/rotate_keys.yml, or wait",
            )
        return mesh

    def _hindrance(self, mesh: Mesh) -> str:
        """Why this host must not begin now; "" where it may."""
        if self._declared():
            return "the fleet map names next keys: a playbook rotates them"
        if self._engine.second.pairs(mesh) and mesh.own.name not in mesh.by_themselves:
            return "the last rotation has not ended with everybody"
        return "" if self.store().get("registered") else "this host is not registered in the store"

    def _declared(self) -> bool:
        """Does the rolled-out map rotate keys?"""
        fleet = self._engine.inputs.rolled_out
        return fleet is not None and any(member.next_key for member in fleet.members)

    def _due(self, mesh: Mesh, now: float) -> bool:
        if now - self._busy_at < REST or self._hindrance(mesh):
            return False
        try:
            age = self._wall() - self._paths.key.stat().st_mtime
        except OSError:
            return False
        share = int(hashlib.sha256(mesh.own.name.encode()).hexdigest()[:4], 16) / 0xFFFF
        return age >= self._engine.inputs.config.encryption.key_rotation * (1.0 + SPREAD * share)

    def _finish(self, mesh: Mesh, now: float) -> None:
        """Take the staged key into use when nobody needs the old one any more."""
        engine = self._engine
        if engine.tunnel is None or self._declared() or is_handed_over(self._paths):
            return
        here = {m.key: m.name for m in mesh.others if engine.second.is_up(m)}
        silent = self._silence.observe(engine.tunnel.state.peers, here, now)
        # Who was silent once has moved; a session's own keepalives may be heard later.
        self._moved = frozenset(here.values()) & (self._moved | {here[key] for key in silent})
        waiting = [
            m.name
            for m in mesh.others
            if m.name not in self._moved and engine.is_up(m) and not m.kubernetes  # a node has one tunnel
        ]
        self._tell(waiting)
        if waiting or not self.store().get("registered"):
            return
        fleet = engine.inputs.rolled_out
        declared = fleet.by_name(mesh.own.name) if fleet else None
        if promote(self._paths, mesh.own.next_key, declared.key if declared else ""):
            publish(self._paths)
            LOG.info("wireguard: the staged key %s… took the old one's place", mesh.own.next_key[:10])
        engine.rediscover()

    def _tell(self, waiting: list[str]) -> None:
        said = listed(waiting) if waiting else ""
        if said != self._told:
            self._told = said
            if said:
                LOG.info("wireguard: the old key is still needed by: %s", said)
