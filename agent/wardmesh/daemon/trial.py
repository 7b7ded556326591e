# SPDX-License-Identifier: Apache-2.0
"""Policies on trial: in force at once, and gone by themselves unless somebody confirms them in time.

The files in /etc are always the confirmed set, so a trial also ends when the agent ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from threading import Timer
from typing import Any, Callable

from wardmesh.daemon.engine import Engine
from wardmesh.daemon.inputs import Inputs
from wardmesh.daemon.log import LOG
from wardmesh.model.errors import WardmeshError
from wardmesh.policy.files import parse_policies, policy_digest
from wardmesh.policy.view import compare, endpoints_of

LONGEST = 3600.0  # seconds that a trial may last


class Trial:
    """At most one trial at a time. submit: hands a job to the thread that may call the engine."""

    def __init__(self, engine: Engine, submit: Callable[[Callable[[], Any]], Future[Any]]) -> None:
        self._engine = engine
        self._submit = submit
        self._before: Inputs | None = None
        self._timer: Timer | None = None
        self._until = 0.0
        self._last = ""

    def state(self) -> dict[str, Any]:
        """What is in force, and what the last trial came to."""
        inputs = self._engine.inputs
        running = self._before is not None
        return {
            "revision": self._engine.firewalling.revision,
            "since": round(self._engine.firewalling.since, 3),
            "files": dict(inputs.policy_files),
            "digest": policy_digest(inputs.policy_files),
            "pending": running,
            "secondsLeft": round(max(0.0, self._until - time.monotonic()), 1) if running else 0,
            "lastTrial": self._last,
        }

    def preview(self, files: Mapping[str, str]) -> dict[str, Any]:
        """Check a whole set and say what it would change for this host; nothing is changed."""
        fresh, inputs = self._parse(files), self._engine.inputs
        fleet, mesh = inputs.fleet, inputs.mesh
        rows: list[dict[str, Any]] = []
        if fleet is not None and mesh is not None:
            members, own = endpoints_of(fleet), mesh.own.name
            rows = compare(inputs.policies, fresh.policies, members, fleet.cluster.name, subject=own)
        return {"changed": fresh.policy_files != inputs.policy_files, "changes": rows}

    def begin(self, files: Mapping[str, str], seconds: float) -> dict[str, Any]:
        """Put a whole set in force until it is confirmed, or for so many seconds."""
        if not 1 <= seconds <= LONGEST:
            raise WardmeshError("no such time", where=f"{seconds:g} s", remedy=f"1 to {LONGEST:.0f} seconds")
        if not self._engine.inputs.config.firewall.enabled:
            raise WardmeshError(
                "the firewall is switched off on this host",
                where="hostFirewall.enabled",
                remedy="set it to true; without it policies are only checked",
            )
        fresh = self._parse(files)
        before = self._before or self._engine.inputs
        self._take(fresh)
        self._before, self._until = before, time.monotonic() + seconds
        self._arm(seconds)
        LOG.info("firewall: policies on trial for %g s", seconds)
        return self.state()

    def confirm(self) -> dict[str, Any]:
        """End the trial for good; the caller writes the files that are in force to /etc."""
        if self._before is None:
            raise WardmeshError(
                "no policies are on trial", why=self._last, remedy="apply them again with --confirm-within"
            )
        self._disarm()
        self._last = "confirmed"
        LOG.info("firewall: policies confirmed")
        return self.state()

    def _parse(self, files: Mapping[str, str]) -> Inputs:
        pairs = tuple(sorted((str(name), str(text)) for name, text in files.items()))
        held = parse_policies(pairs, str(self._engine.paths.policies))
        return replace(self._engine.inputs, policies=held, policy_files=pairs)

    def _take(self, inputs: Inputs) -> None:
        before = self._engine.inputs
        self._engine.put_in_force(inputs)
        problem = self._engine.stages.problems.get("firewall")
        if problem is not None:
            self._engine.put_in_force(before)
            raise problem

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = Timer(seconds, lambda: self._submit(self._expire) and None)
        self._timer.daemon = True
        self._timer.start()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._before = None, None

    def _expire(self) -> None:
        before = self._before
        if before is None:
            return
        self._disarm()
        self._last = "not confirmed in time: the policies before it are in force again"
        LOG.warning("firewall: %s", self._last)
        current = self._engine.inputs
        self._engine.put_in_force(
            replace(current, policies=before.policies, policy_files=before.policy_files)
        )
