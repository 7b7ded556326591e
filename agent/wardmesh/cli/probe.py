# SPDX-License-Identifier: Apache-2.0
"""wardmesh ping and wardmesh connectivity test."""

from __future__ import annotations

import argparse
import difflib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.health_text import milliseconds
from wardmesh.cli.output import emit, paths_of, table
from wardmesh.cli.text import ago
from wardmesh.cli.tunnel_proof import Evidence, Prover
from wardmesh.cli.verdicts import Verdicts
from wardmesh.daemon.own_keys import own_member, own_public_keys
from wardmesh.health import reach
from wardmesh.health.connectivity import Expected, Outcome, Port, Target, judge_test, read_plan, row
from wardmesh.health.pairs import targets
from wardmesh.health.web import PORT
from wardmesh.host.files import read_bytes
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member

COUNT_MAX = 1000
ECHOES = 3
AT_ONCE = 8  # members that are tested at the same time


def _fleet(paths: Paths) -> tuple[FleetMap, Member]:
    fleet = fleet_in_force(paths)
    if fleet is None:
        raise WardmeshError("no fleet map on this host", where=str(paths.fleet), remedy="run the playbook")
    own = own_member(fleet, own_public_keys(paths))
    if own is None:
        raise WardmeshError(
            "this host is not in the fleet map", where=str(paths.fleet), remedy="run site.yml"
        )
    return fleet, own


def _member(fleet: FleetMap, own: Member, text: str) -> tuple[Member, str]:
    """A member by name or address, and the address to use."""
    for member in fleet.members:
        addresses = [str(address) for address in member.addresses]
        if text == member.name or text in addresses:
            if member.name == own.name:
                raise WardmeshError("that is this host", where=text, remedy="name another member")
            return member, text if text in addresses else addresses[0]
    names = [member.name for member in fleet.members if member.name != own.name]
    near = difflib.get_close_matches(text, names, n=3)
    raise WardmeshError(
        "no such member",
        where=text,
        why=f"the map of generation {fleet.generation} has {len(names)} others",
        remedy=f"did you mean {', '.join(near)}?" if near else "wardmesh fleet show lists them",
    )


# --- ping ---


def ping(args: argparse.Namespace) -> int:
    """Path, encryption, path MTU and round trips; 1 where nothing comes back."""
    if not 1 <= args.count <= COUNT_MAX:
        raise WardmeshError("how many echoes?", where=f"-c {args.count}", remedy=f"1 to {COUNT_MAX}")
    paths = paths_of(args)
    fleet, own = _fleet(paths)
    member, address = _member(fleet, own, args.member)
    prover = Prover(paths)
    before = prover.look(member.key)
    found = reach.ping(address, args.count)
    after = prover.look(member.key)
    evidence = prover.evidence(address, before, after, found.size * len(found.answered), len(found.answered))
    largest = prover.way(address).mtu
    mtu = reach.path_mtu(address, largest) if found.answered and largest else 0
    times = reach.spread(found.answered)
    why = "" if found.answered else _silence(Verdicts(paths), member.name, address, found.problem, evidence)
    document = {
        "member": member.name,
        "address": address,
        "path": evidence.path,
        "device": evidence.device,
        "endpoint": evidence.endpoint,
        "lastHandshake": evidence.last_handshake,
        "encrypted": evidence.encrypted,
        "evidence": evidence.words,
        "sent": len(found.times),
        "answered": len(found.answered),
        "loss": round(found.loss, 4),
        "rtt": dict(zip(("min", "avg", "max"), (round(value, 6) for value in times))) if times else None,
        "mtu": mtu,
        "problem": why,
    }
    emit(args, document, _ping_words(document))
    return 0 if found.answered else 1


def _silence(verdicts: Verdicts, name: str, address: str, problem: str, evidence: Evidence) -> str:
    """Why nothing came back, as far as this host can know."""
    denied = verdicts.forbids(name, "icmp6" if ":" in address else "icmp")
    if denied:
        return f"policy denies ICMP: {denied}"
    if not evidence.device:
        return f"no route to {address}"
    if problem:
        return problem
    if evidence.path == "tunnel" and not evidence.last_handshake:
        return "the tunnel had no handshake yet: is the host up, and does its UDP port pass?"
    return "no answer: the host is down, cut off, or a packet filter of its own drops ICMP"


def _ping_words(data: dict[str, Any]) -> str:
    path = f"{data['path']} ({data['device']}" if data["device"] else "none ("
    if data["path"] == "tunnel":
        path += f", endpoint {data['endpoint']}, handshake {ago(data['lastHandshake'], time.time())}"
    word = {True: "yes", False: "NO", None: "not known"}[data["encrypted"]]
    lines = [
        f"{data['member']} ({data['address']}): path {path})",
        f"encrypted:  {word}: {data['evidence']}",
        f"echoes:     {data['sent']} sent, {data['answered']} answered, {data['loss']:.0%} lost",
    ]
    if data["rtt"]:
        words = " / ".join(milliseconds(data["rtt"][name]) for name in ("min", "avg", "max"))
        lines.append(f"round trip: {words} (min / avg / max)")
        lines.append(f"path MTU:   {data['mtu'] or 'not found'}")
    if data["problem"]:
        lines.append(f"problem:    {data['problem']}")
    return "\n".join(lines)


# --- connectivity test ---


def test(args: argparse.Namespace) -> int:
    """Test members and compare with what is expected; 1 on any difference."""
    paths = paths_of(args)
    fleet, own = _fleet(paths)
    plan = _plan(args, paths, fleet, own)
    prover = Prover(paths)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tested = list(pool.map(lambda target: _test(prover, fleet, own, target), plan))
    rows = [row(own.name, item, judge_test(item, encryption=prover.encryption)) for item in tested]
    differ = sum(not item["ok"] for item in rows)
    told = [f"{item['from']} -> {item['to']}: {line}" for item in rows for line in item["differences"]]
    words = "\n".join([_table(rows), *told]) + f"\n{len(rows)} members tested, {differ} with differences"
    emit(args, {"self": own.name, "rows": rows, "differences": differ}, words)
    return 1 if differ else 0


def _plan(args: argparse.Namespace, paths: Paths, fleet: FleetMap, own: Member) -> list[Target]:
    if args.plan is not None:
        data = read_bytes(args.plan)
        if data is None:
            raise WardmeshError("no such file", where=str(args.plan), remedy="name a plan of the controller")
        return read_plan(data, str(args.plan))
    wanted = [_member(fleet, own, name)[0].name for name in args.member]
    wanted = wanted or targets((member.name for member in fleet.members), own.name)
    verdicts, ports = Verdicts(paths), [_port(text) for text in args.port or [str(PORT)]]
    return [_target(verdicts, fleet, own, name, ports) for name in wanted]


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _target(verdicts: Verdicts, fleet: FleetMap, own: Member, name: str, ports: Sequence[str]) -> Target:
    member, address = _member(fleet, own, name)
    return Target(
        member.name,
        Expected(*verdicts.of(name, "128/icmpv6" if ":" in address else "8/icmp")),
        tuple(Port(port, Expected(*verdicts.of(name, port))) for port in ports),
    )


def _test(prover: Prover, fleet: FleetMap, own: Member, target: Target) -> Outcome:
    member, address = _member(fleet, own, target.name)
    before = prover.look(member.key)
    small = reach.ping(address, ECHOES, spacing=0.05)
    mtu = prover.way(address).mtu
    large = reach.ping(address, ECHOES, spacing=0.05, size=mtu) if mtu and small.answered else None
    said = {port.port: reach.connect(address, port.number)[0] for port in target.ports}
    after = prover.look(member.key)
    answers = [item for item in (small, large) if item is not None]
    packets = sum(len(item.answered) for item in answers)
    size = sum(len(item.answered) * item.size for item in answers)
    for word in said.values():  # what even the shortest exchange of TCP sends: a SYN of 40 bytes
        packets += reach.passed(word)
        size += 40 if reach.passed(word) else 0
    evidence = prover.evidence(address, before, after, size, packets)
    return Outcome(target, address, small, large, said, evidence.encrypted, evidence.words)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = ("FROM", "TO", "PING", "TCP", "LARGE", "ENCRYPTED", "POLICY", "RESULT")
    return table(head, [tuple(str(item["cells"][name]) for name in head) for item in rows])
