# SPDX-License-Identifier: Apache-2.0
"""What policy says about a flow to a member, from the files that are installed on this host."""

from __future__ import annotations

import time

from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.local import read_config
from wardmesh.daemon.inputs import read_policies
from wardmesh.daemon.own_keys import noted_public_keys, own_member
from wardmesh.host.files import stamp
from wardmesh.host.paths import Paths
from wardmesh.model.config import HEALTH_PORT
from wardmesh.model.errors import WardmeshError
from wardmesh.policy.engine import Engine
from wardmesh.policy.files import parse_policies
from wardmesh.policy.passes import NO_POLICY, Failsafe, between, failsafe_of
from wardmesh.policy.view import endpoints_of

OPEN = (True, NO_POLICY)
LOOK = 1.0  # seconds for which a look at the files is good: somebody may ask about every peer
_PORTS = {"http": f"{HEALTH_PORT}/tcp", "icmp": "8/icmp", "icmp6": "128/icmpv6"}


class Verdicts:
    """Reads map, configuration and policies when they changed; a peer's policies are taken to be the same."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._seen: object = None
        self._look_at = float("-inf")
        self._engine: Engine | None = None
        self._safe = Failsafe()
        self._own = ""
        self._known: dict[tuple[str, str], tuple[bool, str]] = {}

    def _refresh(self) -> None:
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK
        paths = self._paths
        folder = sorted(paths.policies.glob("*.y*ml")) if paths.policies.is_dir() else []
        seen = tuple((str(path), stamp(path)) for path in (paths.fleet_in_force, paths.config, *folder))
        if seen == self._seen:
            return
        self._seen, self._engine, self._known = seen, None, {}
        config = read_config(paths.config, needed=False)
        fleet = fleet_in_force(paths)
        own = own_member(fleet, noted_public_keys(paths)) if fleet is not None else None
        if fleet is None or own is None or not folder or not config.firewall.enabled or config.firewall.audit:
            return
        policies = parse_policies(read_policies(paths.policies), str(paths.policies))
        self._own, self._safe = own.name, failsafe_of(config)
        self._engine = Engine(policies, endpoints_of(fleet), fleet.cluster.name)

    def of(self, target: str, port: str) -> tuple[bool, str]:
        """Does policy allow this host's flow to a member (port: 5432/tcp, 8/icmp), and why."""
        self._refresh()
        if self._engine is None or target not in self._engine.endpoints:
            return OPEN
        key = (target, port)
        if key not in self._known:
            self._known[key] = between(self._engine, self._own, target, port, (self._safe, self._safe))
        return self._known[key]

    def forbids(self, target: str, protocol: str) -> str:
        """Why a check (http, icmp, icmp6) cannot pass; "" where policy is not the reason."""
        try:
            allowed, why = self.of(target, _PORTS[protocol])
        except (OSError, ValueError, WardmeshError):
            return ""  # whatever is wrong with the files is the agent's to tell
        return "" if allowed else why
