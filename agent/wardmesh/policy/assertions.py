# SPDX-License-Identifier: Apache-2.0
"""An operator's own assertions about a policy set, and the verdict on one flow in words."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import yaml

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address
from wardmesh.policy.cases import PROTOCOLS
from wardmesh.policy.engine import Action, Engine

_PORT = re.compile(r"^(?:(?P<port>[a-z0-9-]+)/)?(?P<protocol>tcp|udp|sctp|icmp|icmpv6)$", re.IGNORECASE)


def check_assertions(engine: Engine, text: str, source: str) -> tuple[int, list[str]]:
    """How many assertions the text holds, and a sentence about each that does not hold."""
    items = _assertions(text, source)
    said = (_check(engine, item, f"{source}: assertion {number}") for number, item in enumerate(items, 1))
    return len(items), [line for line in said if line]


def _assertions(text: str, source: str) -> list[dict[str, Any]]:
    try:
        data = yaml.safe_load(text)
        return [dict(item) for item in (data["tests"] if isinstance(data, dict) else data)]
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise WardmeshError(
            "not a list of assertions",
            where=source,
            why=str(error).splitlines()[0],
            remedy="write tests: [{from: web1, to: db1, port: 5432/tcp, expect: allowed}]",
        ) from error


def _check(engine: Engine, item: dict[str, Any], where: str) -> str:
    missing = [key for key in ("from", "to", "port", "expect") if key not in item]
    if missing or item.get("expect") not in ("allowed", "denied"):
        raise WardmeshError(
            f"an assertion needs from, to, port and expect ({', '.join(missing) or 'allowed or denied'})",
            where=where,
            remedy="write {from: web1, to: db1, port: 5432/tcp, expect: allowed}",
        )
    answer = judge(engine, str(item["from"]), str(item["to"]), str(item["port"]))
    if answer["verdict"] == item["expect"]:
        return ""
    flow = f"{item['from']} -> {item['to']} {item['port']}"
    return f"{where}: {flow}: expected {item['expect']}, found {answer['verdict']} ({answer['why']})"


def judge(engine: Engine, source: str, target: str, port: str) -> dict[str, Any]:
    """The verdict of both sides for a flow, in words."""
    number, protocol = _parse_port(port)
    sides = []
    for own, peer, ingress in ((source, target, False), (target, source, True)):
        sides.append(_side(engine, own, peer, protocol, number, ingress))
    verdict = "allowed" if all(side[0] for side in sides) else "denied"
    why = next((text for good, text in sides if not good), sides[-1][1])
    return {"verdict": verdict, "egress": sides[0][1], "ingress": sides[1][1], "why": why}


def _side(engine: Engine, own: str, peer: str, protocol: int, port: int, ingress: bool) -> tuple[bool, str]:
    subject = engine.endpoints.get(own)
    if subject is None:
        _address(engine, own)
        return True, "allowed: not a member, it has no policy of ours"
    direction = engine.direction(subject, ingress)
    place = engine.universe.place_of(_address(engine, peer))
    action, grant = direction.decide(place, protocol, port)
    good = action in (Action.ALLOW, Action.AUDIT)
    word = {Action.ALLOW: "allowed", Action.AUDIT: "allowed (audit)"}.get(action, "denied")
    if grant is not None:
        return good, f"{word} by {grant.name}"
    if not direction.enforced:
        return good, f"{word}: no rule switches to default deny, and none forbids it"
    return (
        good,
        f"{word}: default deny, and none of {len(direction.grants)} rule items that speak to it allows it",
    )


def _address(engine: Engine, name: str) -> Address:
    known = engine.endpoints.get(name)
    if known is not None:
        return known.addresses[0]
    try:
        return ipaddress.ip_address(name)
    except ValueError as error:
        raise WardmeshError(
            "neither a member nor an address", where=name, remedy=f"members: {', '.join(engine.endpoints)}"
        ) from error


def _parse_port(text: str) -> tuple[int, int]:
    found = _PORT.match(text) or _PORT.match(f"{text}/tcp")
    port = found["port"] if found else None
    if not found or not (port or "").isdigit() or int(port or 0) > 65535:
        raise WardmeshError("not a port", where=text, remedy="write 5432/tcp, 53/udp or 8/icmp (the type)")
    name = "ICMPv6" if found["protocol"].lower() == "icmpv6" else found["protocol"].upper()
    return int(port or 0), PROTOCOLS[name]
