# SPDX-License-Identifier: Apache-2.0
"""What a scrape reads, as typed values; the agent's answers are parsed here, at the border.

An older agent lacks some figures: they are None then, and have no series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardmesh.model.errors import WardmeshError

DIGEST_DIGITS = 12  # of a policy digest in a label: enough to tell sets apart


@dataclass(frozen=True)
class PeerFigures:
    """One peer; tunnel: up, down or pending; last_handshake in unix seconds, 0: never."""

    name: str
    tunnel: str
    sealed: bool
    last_handshake: float
    rx_bytes: int
    tx_bytes: int


@dataclass(frozen=True)
class Delays:
    """A histogram: cumulative counts by upper bound in seconds, all of them, and their sum."""

    buckets: tuple[tuple[float, int], ...]
    count: int
    sum: float


@dataclass(frozen=True)
class ClusterFigures:
    """Another cluster: nodes are peers here; ready: what its store or list says is in force."""

    name: str
    nodes: int
    ready: bool


@dataclass(frozen=True)
class AgentFigures:
    """What /v1/status says. Times in unix seconds; 0 or None: not known. store: does that of the members
    answer? None where there is none."""

    version: str
    since: float
    cluster: str
    name: str
    generation: int
    mode: str
    wish: str
    firewall: bool
    audit: bool
    policies: int
    revision: int
    policy_digest: str
    peers: tuple[PeerFigures, ...]
    problems: int
    bootstrap: float | None
    key_since: float
    map_since: float
    logged: Mapping[str, int]
    policy_delays: Delays | None
    clusters: tuple[ClusterFigures, ...] = ()
    store: bool | None = None


@dataclass(frozen=True)
class CheckedPeer:
    """One peer by its checks; state: reachable, unreachable or unknown; seconds, None: not known."""

    name: str
    state: str
    latency: float | None
    loss: float | None
    jitter: float | None


@dataclass(frozen=True)
class HealthFigures:
    """What wardmesh-health says. latencies: by primary address or not, and protocol."""

    cycle: float
    peers: tuple[CheckedPeer, ...]
    latencies: tuple[tuple[bool, str, Delays], ...]


@dataclass(frozen=True)
class Counted:
    """What one reason has counted. part: guard or firewall; direction: ingress or egress."""

    part: str
    reason: str
    direction: str
    packets: int
    bytes: int
    dropped: bool


@dataclass(frozen=True)
class MapFill:
    """Entries of a map; name as in `wardmesh bpf maps list`; fixed: an array, which is always full."""

    name: str
    entries: int
    capacity: int
    fixed: bool


@dataclass(frozen=True)
class Snapshot:
    """One scrape. now in unix seconds; None: could not be read, and `failed` names the source.

    enforced: ingress and egress of the host's endpoint, as /v1/endpoints words them.
    identities: by type. certificates: end in unix seconds by name.
    """

    now: float
    agent: AgentFigures | None = None
    enforced: tuple[str, str] | None = None
    counted: tuple[Counted, ...] = ()
    maps: tuple[MapFill, ...] = ()
    encrypt_cpu: float | None = None
    identities: Mapping[str, int] | None = None
    certificates: Mapping[str, float] | None = None
    health: HealthFigures | None = None
    failed: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    seconds: float = 0.0


def agent_figures(document: Mapping[str, Any]) -> AgentFigures:
    """/v1/status as typed values; WardmeshError where it is something else."""
    try:
        return _agent_figures(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WardmeshError(
            "the agent's status is not what this version expects",
            where="/v1/status",
            why=repr(error),
            remedy="agent and observer differ: systemctl restart wardmesh wardmesh-observer",
        ) from error


def _agent_figures(document: Mapping[str, Any]) -> AgentFigures:
    extra: Mapping[str, Any] = document.get("figures", {})
    wall = document["firewall"]
    bootstrap = extra.get("bootstrapSeconds")
    store = document.get("discovery")
    return AgentFigures(
        version=str(document["version"]),
        since=float(document.get("since", 0)),
        cluster=str(document["cluster"]),
        name=str(document["self"]),
        generation=int(document["generation"]),
        mode=str(document["mode"]),
        wish=str(document["wish"]),
        firewall=bool(wall["enabled"]),
        audit=bool(wall["audit"]),
        policies=len(wall["policies"]),
        revision=int(document["revision"]),
        policy_digest=str(document["digests"].get("policies", ""))[:DIGEST_DIGITS],
        peers=tuple(_peer(row) for row in document["peers"]),
        problems=len(document["problems"]),
        bootstrap=None if bootstrap is None else float(bootstrap),
        key_since=float(extra.get("keySince", 0)),
        map_since=float(extra.get("mapSince", 0)),
        logged={str(level): int(count) for level, count in extra.get("log", {}).items()},
        policy_delays=_delays(extra.get("policyDelay")),
        clusters=tuple(
            ClusterFigures(str(row["name"]), int(row["nodes"]), bool(row["ready"]))
            for row in document.get("clustermesh", ())
        ),
        store=None if store is None else bool(store["connected"]),
    )


def health_figures(document: Mapping[str, Any]) -> HealthFigures:
    """/v1/health as typed values; WardmeshError where it is something else."""
    try:
        peers = tuple(
            CheckedPeer(
                str(row["name"]),
                str(row["state"]),
                _number(row["latency"]),
                _number(row["loss"]),
                _number(row["jitter"]),
            )
            for row in document["peers"]
        )
        found = ((bool(row["primary"]), str(row["protocol"]), _delays(row)) for row in document["latency"])
        latencies = tuple((primary, protocol, held) for primary, protocol, held in found if held is not None)
        return HealthFigures(float(document["cycle"]), peers, latencies)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WardmeshError(
            "the state of the checks is not what this version expects",
            where="/v1/health",
            why=repr(error),
            remedy="systemctl restart wardmesh-health wardmesh-observer",
        ) from error


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _peer(row: Mapping[str, Any]) -> PeerFigures:
    return PeerFigures(
        str(row["name"]),
        str(row["tunnel"]),
        bool(row["sealed"]),
        float(row["lastHandshake"]),
        int(row["rxBytes"]),
        int(row["txBytes"]),
    )


def _delays(found: Mapping[str, Any] | None) -> Delays | None:
    if found is None:
        return None
    buckets = tuple((float(bound), int(count)) for bound, count in found["buckets"])
    return Delays(buckets, int(found["count"]), float(found["sum"]))
