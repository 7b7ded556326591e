# SPDX-License-Identifier: Apache-2.0
"""What the API shows of the engine: JSON-ready documents, made in the worker's thread."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardmesh import __version__
from wardmesh.daemon.clusters_view import cluster_rows, cluster_warnings
from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.engine import Engine
from wardmesh.daemon.figures import changed_at, log_counts
from wardmesh.daemon.firewall_tables import engine_of
from wardmesh.daemon.inputs import Inputs
from wardmesh.daemon.rotate import report
from wardmesh.discovery.settings import read_settings
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member
from wardmesh.model.identity import HOST, identities, member_labels
from wardmesh.wireguard.backend import DeviceState
from wardmesh.wireguard.liveness import UP
from wardmesh.wireguard.mark import INTERFACE, SECOND_INTERFACE

ENCRYPTION_FIELDS = (
    "encryption",
    "nodeEncryption",
    "mode",
    "wish",
    "backend",
    "interface",
    "publicKey",
    "listenPort",
    "self",
    "address",
    "peers",
    "rotation",
    "problems",
)


_MOST_REFUSED = 20  # records named in the answer


def agent_digest() -> str:
    """SHA-256 of the zipapp that runs; empty when it runs from a folder."""
    path = Path(sys.argv[0]).resolve()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".pyz" else ""
    except OSError:
        return ""


def enforcement(inputs: Inputs, fleet: FleetMap, own: str) -> tuple[str, str]:
    """Ingress and egress: Enabled, Disabled, or Disabled (Audit)."""
    wall = inputs.config.firewall
    if not wall.enabled:
        return "Disabled", "Disabled"
    engine = engine_of(inputs.policies, fleet)
    word = "Disabled (Audit)" if wall.audit else "Enabled"
    found = [
        word if engine.direction(engine.endpoints[own], way).enforced else "Disabled" for way in (True, False)
    ]
    return found[0], found[1]


def store_warnings(store: Mapping[str, Any]) -> list[str]:
    """What an operator should know of the store. No problem of the agent: the last members stay."""
    if not store:
        return []
    found = [
        f"discovery: {store[name]}"
        for name in ("problem", "registration", "publication", "showing")
        if store.get(name)
    ]
    if not store["tls"]:
        found.append("discovery: the store is reached without TLS; whoever is on the way can make members")
    found += [f"discovery: record of {row['name']} refused: {row['why']}" for row in store["refusedRecords"]]
    return found + [
        f"discovery: {row['key']} skipped: {row['why']}" for row in store.get("skippedRecords", [])
    ]


class View:
    """Makes documents of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.agent = agent_digest()  # of the file that runs, whatever lies in its place later
        self._since = time.time()
        self.bootstrap_seconds: float | None = None  # until the first pass is done

    def status(
        self,
        discovery: Mapping[str, Any] | None = None,
        clusters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Everything that `wardmesh status -o json` prints. discovery: what the store's follower says;
        clusters: what those of the other clusters' stores say."""
        engine = self._engine
        inputs, mesh, state = engine.inputs, engine.mesh, engine.effective()
        encryption = inputs.config.encryption
        device = engine.tunnel.state if engine.tunnel else DeviceState(0, "", 0, 0)
        problems = [str(error) for error in engine.problems()]
        if inputs.fleet is None:
            problems.append(f"no fleet map: {engine.paths.fleet} (remedy: run the playbook)")
        store = self._discovery(discovery or {})
        mesh_rows = cluster_rows(inputs, self._up(mesh), clusters or {})
        return {
            "version": __version__,
            "mode": state.mode,
            "wish": encryption.mode,
            "encryption": encryption.enabled,
            "nodeEncryption": encryption.enabled,
            "cluster": inputs.config.cluster.name,
            "generation": inputs.fleet.generation if inputs.fleet else 0,
            "revision": engine.firewalling.revision,
            "self": mesh.own.name if mesh else "",
            "address": str(mesh.own.addresses[0]) if mesh else "",
            "backend": engine.tunnel.backend.name if engine.tunnel else "",
            "interface": INTERFACE,
            "publicKey": mesh.own.key if mesh else "",
            "listenPort": encryption.listen_port,
            "peers": self._peers(mesh, device) if mesh else [],
            "rotation": report(engine),
            "guard": {
                "devices": list(engine.sight.names) if engine.sight and mesh else [],
                "counters": self._counters(problems),
            },
            "firewall": {
                "enabled": inputs.config.firewall.enabled,
                "audit": inputs.config.firewall.audit,
                "policies": [policy.name for policy in inputs.policies.policies],
                "counters": dict(engine.firewalling.counters()) if mesh else {},
            },
            "closed": engine.closing.stands,
            "inactive": self._inactive(),
            "problems": problems,
            "warnings": [
                *(engine.guarding.warnings if mesh else []),
                *store_warnings(store),
                *cluster_warnings(mesh_rows),
            ],
            **({"discovery": store} if store else {}),
            **({"clustermesh": mesh_rows} if mesh_rows else {}),
            "since": round(self._since, 3),
            "time": round(time.time(), 3),
            "figures": self._figures(),
            "digests": {**inputs.digests(), "agent": self.agent},
        }

    def _discovery(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The store's part; nothing at all where none is configured."""
        inputs = self._engine.inputs
        settings = read_settings(inputs.config.values)
        if settings is None:
            return {}
        rows = [{"name": item.name, "why": item.why} for item in inputs.refused]
        base = {"connected": False, "server": "", "registered": False, "problem": "not started yet"}
        tls = settings.servers[0].tls
        return {**base, **said, "tls": tls, "refused": len(rows), "refusedRecords": rows[:_MOST_REFUSED]}

    def _figures(self) -> dict[str, Any]:
        """What the metrics need beyond the rest. Times in unix seconds, 0 where there is none."""
        paths = self._engine.paths
        return {
            "bootstrapSeconds": self.bootstrap_seconds,
            "policyDelay": self._engine.firewalling.delays.as_dict(),
            "mapSince": changed_at(paths.fleet),
            "keySince": changed_at(paths.key),
            "log": log_counts(),
        }

    def _up(self, mesh: Mesh | None) -> frozenset[str]:
        """Names of the peers whose tunnel is up."""
        status = self._engine.liveness.status
        return frozenset(m.name for m in mesh.others if status(m.key) == UP) if mesh else frozenset()

    def _counters(self, problems: list[str]) -> dict[str, Any]:
        try:
            return dict(self._engine.guarding.counters())
        except (OSError, WardmeshError) as error:
            problems.append(f"the guard's counters cannot be read: {error}")
            return {}

    def _inactive(self) -> list[str]:
        config = self._engine.inputs.config
        # Never plain by omission: a host's own traffic is what this version encrypts.
        extra = set() if config.encryption.node_encryption else {"encryption.nodeEncryption"}
        return sorted({*config.inactive, *extra})

    def _peers(self, mesh: Mesh, device: DeviceState) -> list[dict[str, Any]]:
        state, rows = self._engine.effective(), []
        for member in mesh.others:
            found = device.peers.get(member.key)
            beside = self._engine.second.peer_state(member)
            there = [peer for peer in (found, beside) if peer is not None]
            used = beside if self._uses_second(mesh, member) else found
            status = self._engine.liveness.status(member.key)
            rows.append(
                {
                    "name": member.name,
                    "address": str(member.addresses[0]),
                    "endpoint": str(used.endpoint if used and used.endpoint else member.endpoint),
                    "interface": SECOND_INTERFACE if used is not None and used is beside else INTERFACE,
                    "reachable": self._engine.is_up(member),
                    "tunnel": UP if self._engine.is_up(member) else status,
                    "sealed": state.seals(member.name),
                    "lastHandshake": max((peer.last_handshake for peer in there), default=0),
                    "rxBytes": sum(peer.rx_bytes for peer in there),
                    "txBytes": sum(peer.tx_bytes for peer in there),
                }
            )
        return rows

    def _uses_second(self, mesh: Mesh, member: Member) -> bool:
        engine = self._engine
        return engine.second.carries(mesh, member, first_up=engine.first_up(member))

    def endpoints(self) -> list[dict[str, Any]]:
        """This host's endpoint; a host is one (DESIGN §6)."""
        inputs, mesh = self._engine.inputs, self._engine.mesh
        if mesh is None or inputs.fleet is None:
            return []
        member, cluster = mesh.own, inputs.fleet.cluster.name
        enforced = enforcement(inputs, mesh.fleet, member.name)
        return [
            {
                "id": HOST,
                "ingress": enforced[0],
                "egress": enforced[1],
                "identity": HOST,
                "fleetIdentity": identities(inputs.fleet)[member.name],
                "labels": ["reserved:host", *sorted(member_labels(member, cluster))],
                "ipv4": next((str(a) for a in member.addresses if a.version == 4), ""),
                "ipv6": next((str(a) for a in member.addresses if a.version == 6), ""),
                "status": "alive",
            }
        ]

    def starting(self) -> dict[str, Any]:
        """The status before the first pass is done."""
        document = self.status()
        document["problems"] = [*document["problems"], "the agent is starting"]
        return document
