# SPDX-License-Identifier: Apache-2.0
"""Does a flow between two members pass? Policy of both sides, and what passes before any policy."""

from __future__ import annotations

from dataclasses import dataclass, field

from wardmesh.model.config import HEALTH_PORT, PROTOCOLS, Config
from wardmesh.policy.assertions import judge
from wardmesh.policy.engine import Engine

Port = tuple[int, int]  # protocol, port
NO_POLICY = "no policy is enforced"


@dataclass(frozen=True)
class Failsafe:
    """What passes a host whatever policy says; members: in both directions, to and from members only."""

    ingress: frozenset[Port] = field(default_factory=frozenset)
    egress: frozenset[Port] = field(default_factory=frozenset)
    members: frozenset[Port] = field(default_factory=frozenset)


def failsafe_of(config: Config) -> Failsafe:
    """What the firewall of a host with this configuration lets pass before policy."""
    wall = config.firewall
    return Failsafe(
        frozenset((item.protocol, item.port) for item in wall.failsafe_ingress),
        frozenset((item.protocol, item.port) for item in wall.failsafe_egress),
        frozenset([(PROTOCOLS["TCP"], HEALTH_PORT)] if config.health.enabled else []),
    )


def between(
    engine: Engine,
    source: str,
    target: str,
    port: str,
    safe: tuple[Failsafe, Failsafe],
    enforced: tuple[bool, bool] = (True, True),
) -> tuple[bool, str]:
    """Whether a new flow (port: 5432/tcp, 8/icmp) gets through both hosts, and why.

    safe and enforced: of source and target; enforced: its firewall is on and drops.
    """
    if not any(enforced):
        return True, NO_POLICY
    answer = judge(engine, source, target, port)
    number, _slash, protocol = port.partition("/")
    wanted = (PROTOCOLS.get((protocol or "tcp").upper(), 0), int(number))
    exempt = (
        not enforced[0] or wanted in safe[0].egress | safe[0].members,
        not enforced[1] or wanted in safe[1].ingress | safe[1].members,
    )
    for free, side in zip(exempt, ("egress", "ingress")):
        if not free and not str(answer[side]).startswith("allowed"):
            return False, f"{side}: {answer[side]}"
    return True, str(answer["why"]) if answer["verdict"] == "allowed" else "the failsafe lets it pass"
