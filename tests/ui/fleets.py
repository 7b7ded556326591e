# SPDX-License-Identifier: Apache-2.0
"""Fleets to look at: a small one with everything in it, and one of a thousand hosts."""

from __future__ import annotations

import functools
import random
from typing import Any

from tests.unit.agent.observe.support import event, namer

from wardmesh.observe.flow import Flow, Kind, Party, Policy, Verdict

HOSTS, EDGES = 1000, 5000
_TIERS = ("web", "api", "db", "cache", "queue", "batch", "proxy", "mail", "search", "auth")
_KINDS = (
    (0.90, Kind.VERDICT, Verdict.FORWARDED),
    (0.05, Kind.DROP, Verdict.DROPPED),
    (0.05, Kind.VERDICT, Verdict.AUDIT),
)


def small(count: int = 240, seed: int = 4) -> list[Flow]:
    """Flows between the hosts of the unit tests and strangers, of every verdict, in and out of the tunnel."""
    chance, names = random.Random(seed), namer()
    addresses = ("10.0.0.1", "10.0.0.2", "10.0.0.11", "10.0.0.12", "203.0.113.9")
    made = []
    for number in range(count):
        source, destination = chance.sample(addresses, 2)
        kind, verdict = chance.choice([item[1:] for item in _KINDS])
        changes = {
            "source": source,
            "destination": destination,
            "destination_port": chance.choice([22, 443, 5432]),
            "kind": kind,
            "verdict": verdict,
            "drop_reason": 133 if kind is Kind.DROP else 0,
            "encrypted": "203" not in source + destination and chance.random() < 0.8,
            "denied_by": (Policy("deny-stage"),) if verdict is Verdict.AUDIT else (),
        }
        made.append(names.flow(event(number, **changes)))
    return made


_SHOWN = {
    "80/6": (("lb1", "web1"), ("lb1", "web2"), ("lb1", "web3")),
    "443/6": (("world", "lb1"),),
    "8080/6": (("web1", "api1"), ("web2", "api1"), ("web3", "api2"), ("web1", "api2")),
    "5432/6": (("api1", "db1"), ("api2", "db1"), ("db1", "db2")),
    "6379/6": (("api1", "cache1"), ("api2", "cache1")),
    "53/17": (("api1", "dns1"), ("web1", "dns1"), ("db1", "dns1")),
}
_ODD = {
    ("web3", "db1", 5432): (Verdict.DROPPED, "web-to-db"),
    ("world", "db2", 22): (Verdict.DROPPED, ""),
    ("batch1", "db2", 5432): (Verdict.AUDIT, "batch"),
}


def showcase(now_ns: int, rounds: int = 12, seed: int = 2) -> list[Flow]:
    """A dozen hosts of a shop, for the pictures in the docs. now_ns: unix time of the last flow."""
    chance = random.Random(seed)
    made: list[Flow] = []
    for turn in range(rounds):
        lines = [
            (left, right, *map(int, port.split("/")), Verdict.FORWARDED, "")
            for port, pairs in _SHOWN.items()
            for left, right in pairs
        ]
        lines += [(*pair, 6, *verdict) for pair, verdict in _ODD.items() if turn % 3 == 0]
        chance.shuffle(lines)
        made += [_shown(line, len(made) + at) for at, line in enumerate(lines)]
    behind = now_ns - made[-1].event.time_ns
    return [flow._replace(event=flow.event._replace(time_ns=flow.event.time_ns + behind)) for flow in made]


def _shown(line: tuple[Any, ...], number: int) -> Flow:
    left, right, port, protocol, verdict, policy = line
    dropped = verdict is Verdict.DROPPED
    policies = (Policy(policy),) if policy else ()
    told = event(
        number * 83,
        source=_address(left),
        destination=_address(right),
        destination_port=port,
        protocol=protocol,
        verdict=verdict,
        kind=Kind.DROP if dropped else Kind.VERDICT,
        drop_reason=133 if dropped else 0,
        encrypted="world" not in (left, right),
        denied_by=policies,
        allowed_by=() if policies or dropped else (Policy(f"{right.rstrip('0123456789')}-in"),),
    )
    return Flow(told, _member(left), _member(right), f"shown-{number}", f"shop/{right}")


def _address(name: str) -> str:
    return "203.0.113.9" if name == "world" else f"10.0.0.{sum(name.encode()) % 200 + 1}"


def _member(name: str) -> Party:
    if name == "world":
        return Party(2, "", "", ("reserved:world",))
    app = name.rstrip("0123456789")
    return Party(500, name, "shop", (f"vm:app={app}", "vm:env=prod", f"vm:node={name}"))


def party(number: int) -> Party:
    """Host number so and so."""
    tier = _TIERS[number % len(_TIERS)]
    labels = tuple(
        sorted((f"vm:app={tier}", f"vm:env={'prod' if number % 3 else 'stage'}", f"vm:node=h{number}"))
    )
    return Party(1000 + number, f"{tier}-{number:04d}", "lab", labels)


@functools.lru_cache
def many(hosts: int = HOSTS, edges: int = EDGES, seed: int = 7) -> list[Flow]:
    """So many hosts, each in some pair, and so many pairs."""
    chance = random.Random(seed)
    parties = [party(number) for number in range(hosts)]
    pairs = {
        (number, (number * 7 + 1) % hosts) for number in range(hosts) if number != (number * 7 + 1) % hosts
    }
    while len(pairs) < edges:
        left, right = chance.randrange(hosts), chance.randrange(hosts)
        if left != right:
            pairs.add((left, right))
    made = []
    for number, (left, right) in enumerate(sorted(pairs)):
        lot = chance.random()
        kind, verdict = next(
            (kind, verdict)
            for place, (_share, kind, verdict) in enumerate(_KINDS)
            if lot < sum(share for share, _kind, _verdict in _KINDS[: place + 1]) or place == len(_KINDS) - 1
        )
        told = event(
            number,
            kind=kind,
            verdict=verdict,
            drop_reason=133 if kind is Kind.DROP else 0,
            encrypted=number % 40 != 0,
            destination_port=chance.choice([80, 443, 5432, 6379, 9092]),
        )
        made.append(Flow(told, parties[left], parties[right], f"many-{number}", f"lab/{parties[right].name}"))
    return made
