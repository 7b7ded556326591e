# SPDX-License-Identifier: Apache-2.0
"""Does a flow between two members pass? Policy of both sides, and what passes before any policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wardmesh.policy.assertions import judge
from wardmesh.policy.engine import Engine
from wardmesh.policy.ports import TCP, UDP

_PROTOCOLS = {"tcp": TCP, "udp": UDP}
Port = tuple[int, int]  # protocol, port


@dataclass(frozen=True)
class Failsafe:
    """What passes whatever policy says. between_members: in both directions, for members only."""

    ingress: frozenset[Port] = field(default_factory=frozenset)
    egress: frozenset[Port] = field(default_factory=frozenset)
    between_members: frozenset[Port] = field(default_factory=frozenset)


def failsafe(ingress: Iterable[Port], egress: Iterable[Port], between_members: Iterable[Port]) -> Failsafe:
    """From lists of (protocol, port)."""
    return Failsafe(frozenset(ingress), frozenset(egress), frozenset(between_members))


def passes(engine: Engine, source: str, target: str, port: str, safe: Failsafe) -> tuple[bool, str]:
    """Whether a new flow (port: 5432/tcp, 8/icmp) gets through both hosts, and why."""
    answer = judge(engine, source, target, port)
    if answer["verdict"] == "allowed":
        return True, str(answer["why"])
    number, _slash, protocol = port.partition("/")
    wanted = (_PROTOCOLS.get(protocol.lower(), 0), int(number))
    if wanted in safe.between_members:
        return True, "between members it passes before policy"
    out = wanted in safe.egress or str(answer["egress"]).startswith("allowed")
    if out and (wanted in safe.ingress or str(answer["ingress"]).startswith("allowed")):
        return True, "the failsafe lets it pass"
    return False, str(answer["why"])
