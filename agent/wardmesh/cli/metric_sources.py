# SPDX-License-Identifier: Apache-2.0
"""Where metrics come from on this host: the agent's API, the pinned maps, files. Each may fail alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from wardmesh.api import client
from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.local import read_config
from wardmesh.datapath import contract, fw_contract
from wardmesh.datapath.contract import ARRAYS, MapSpec
from wardmesh.datapath.fw_contract import FLOW_TABLES
from wardmesh.datapath.open_pinned import firewall_folder, open_firewall, open_guard
from wardmesh.datapath.pinned import PinnedMaps
from wardmesh.host.files import stamp
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.identity import RESERVED, identities
from wardmesh.observe.metrics import Admitted, admitted
from wardmesh.observe.metrics_snapshot import (
    AgentFigures,
    Counted,
    HealthFigures,
    MapFill,
    Snapshot,
    agent_figures,
    health_figures,
)

ASK = 5.0  # seconds for the agent's answer; it gives older figures after 2 (daemon/main.py)
RECOUNT = 15.0  # seconds between two counts of the entries of all maps, which may be many
CERTIFICATES_MAX = 16
CERTIFICATE_KEYS = ("hubble.tls.certFile", "hubble.tls.clientCaFile")
FIRST_DROP = 130  # from this number on reasons are drops, as upstream counts them (pkg/monitor/api)
CGROUPS = "sys/fs/cgroup/system.slice/system-wardmesh*wireguard.slice/wardmesh-wireguard@*.service/cpu.stat"

T = TypeVar("T")


class Sources:
    """Reads a Snapshot whenever it is asked; remembers what is dear to read and seldom changes."""

    names = ("agent", "guard", "firewall", "fleet", "certificates", "encryption", "health")

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._failed: set[str] = set()
        self._maps: dict[str, tuple[MapFill, ...]] = {}
        self._maps_until = 0.0
        self._seen_fleet: tuple[Any, dict[str, int], Admitted] = (None, {}, Admitted())
        self._enforced: tuple[Any, tuple[str, str] | None] = (None, None)

    def snapshot(self) -> Snapshot:
        """Everything, read now."""
        start = time.monotonic()
        self._failed.clear()
        agent = self._try("agent", self._agent, None)
        enforced = self._try("agent", lambda: self._enforcement(agent), None)
        recount = start >= self._maps_until
        counted = (*self._part("guard", recount=recount), *self._part("firewall", recount=recount))
        if recount:
            self._maps_until = start + RECOUNT
        found_identities = self._try("fleet", lambda: self._fleet()[1], None)
        return Snapshot(
            now=time.time(),
            agent=agent,
            enforced=enforced,
            counted=counted,
            maps=(*self._maps.get("guard", ()), *self._maps.get("firewall", ())),
            encrypt_cpu=self._try("encryption", self._encrypt_cpu, None),
            identities=found_identities,
            certificates=self._try("certificates", self._certificates, None),
            health=self._try("health", self._health, None),
            failed=tuple(sorted(self._failed)),
            sources=self.names,
            seconds=round(time.monotonic() - start, 6),
        )

    def members(self) -> Admitted:
        """Who may read: members of the installed map, and what the configuration admits."""
        try:
            return self._fleet()[2]
        except (OSError, ValueError, WardmeshError):
            return self._seen_fleet[2]  # a map that is damaged changes nothing about who was a member

    def _try(self, source: str, read: Callable[[], T], otherwise: T) -> T:
        """One source; what goes wrong with it is a metric, and no reason to give no others."""
        try:
            return read()
        except (OSError, LookupError, TypeError, ValueError, WardmeshError):
            self._failed.add(source)
            return otherwise

    def _agent(self) -> AgentFigures | None:
        return agent_figures(client.call(self._paths.socket, "GET", "/v1/status", timeout=ASK))

    def _health(self) -> HealthFigures | None:
        if not read_config(self._paths.config, needed=False).health.enabled:
            return None
        return health_figures(client.call(self._paths.health, "GET", "/v1/health", timeout=ASK))

    def _enforcement(self, agent: AgentFigures | None) -> tuple[str, str] | None:
        """Asked again only when something changed: the answer costs the agent a look at all policies."""
        if agent is None or not agent.name:
            return None
        key = (agent.since, agent.generation, agent.policy_digest, agent.firewall, agent.audit)
        if self._enforced[0] != key:
            rows = client.call(self._paths.socket, "GET", "/v1/endpoints", timeout=ASK)["endpoints"]
            self._enforced = (key, (str(rows[0]["ingress"]), str(rows[0]["egress"])) if rows else None)
        return self._enforced[1]

    def _part(self, part: str, *, recount: bool) -> tuple[Counted, ...]:
        """Counters of guard or firewall; with recount the fill of its maps, too."""
        return self._try(part, lambda: self._read_part(part, recount=recount), ())

    def _read_part(self, part: str, *, recount: bool) -> tuple[Counted, ...]:
        config = read_config(self._paths.config, needed=False)
        if part == "firewall" and not firewall_folder(self._paths, config).is_dir():
            self._maps.pop(part, None)
            return ()
        if part == "guard":
            specs, reasons = contract.map_specs(config.members_max), contract.REASONS
            opened: PinnedMaps = open_guard(self._paths, config)
        else:
            wall = config.firewall
            specs = fw_contract.map_specs(config.members_max, wall.rows_max, wall.flows_max)
            reasons = fw_contract.REASONS
            opened = open_firewall(self._paths, config)
        with opened as pinned:
            if recount:
                self._maps[part] = _fills(part, pinned, specs)
            drops = {name for number, name in reasons.items() if number >= FIRST_DROP}
            return tuple(
                Counted(part, reason, direction, count.packets, count.bytes, reason in drops)
                for (reason, direction), count in pinned.counters(reasons).items()
            )

    def _fleet(self) -> tuple[Any, dict[str, int], Admitted]:
        """Identities by type and who may read; parsed again only when map or configuration changed."""
        key = tuple(stamp(path) for path in (self._paths.fleet_in_force, self._paths.config))
        if self._seen_fleet[0] != key:
            fleet = fleet_in_force(self._paths)
            config = read_config(self._paths.config, needed=False)
            counts = (
                {"reserved": len(RESERVED), "cluster_local": len(set(identities(fleet).values()))}
                if fleet
                else {}
            )
            networks = [net for member in fleet.members for net in member.networks()] if fleet else []
            self._seen_fleet = (key, counts, admitted([*networks, *config.metrics.admit]))
        return self._seen_fleet

    def _encrypt_cpu(self) -> float | None:
        """Seconds of wireguard-go, from its control group (version 2); None where it does not run."""
        found = [_usage(path) for path in self._paths.root.glob(CGROUPS)]
        return round(sum(found), 6) if found else None

    def _certificates(self) -> dict[str, float]:
        """Those of the configuration, and what lies in /etc/wardmesh/tls."""
        values = read_config(self._paths.config, needed=False).values
        named = [Path(values[key]) for key in CERTIFICATE_KEYS if values.get(key)]
        files = dict.fromkeys([*named, *sorted((self._paths.etc / "tls").glob("*.crt"))])
        return {path.stem: _end_of(path) for path in list(files)[:CERTIFICATES_MAX]}


def _fills(part: str, pinned: PinnedMaps, specs: tuple[MapSpec, ...]) -> tuple[MapFill, ...]:
    """Tables of flows have twice the room that they are made for, since they are filled by half at most."""
    kinds = {spec.name: spec.kind for spec in specs}
    found = []
    for name, held, room in pinned.sizes():
        flows = name in FLOW_TABLES
        fixed = kinds[name] in ARRAYS and not flows
        found.append(MapFill(f"{part}/{name}", held, room // 2 if flows else room, fixed))
    return tuple(found)


def _usage(path: Path) -> float:
    for line in path.read_text(encoding="ascii").splitlines():
        name, _space, value = line.partition(" ")
        if name == "usage_usec":
            return int(value) / 1e6
    raise ValueError(f"{path}: no usage_usec")


def _end_of(path: Path) -> float:
    """When a certificate ends, in unix seconds."""
    from datetime import timezone

    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    # not_valid_after_utc is newer than the oldest library in use; both mean UTC.
    end = getattr(certificate, "not_valid_after_utc", None)
    if end is None:
        end = certificate.not_valid_after.replace(tzinfo=timezone.utc)
    return float(end.timestamp())
