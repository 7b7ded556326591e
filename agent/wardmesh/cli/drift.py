# SPDX-License-Identifier: Apache-2.0
"""The verbs `fleet digest` and `fleet drift`: what this host enforces, and who does not do as he should."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from dataclasses import replace

from wardmesh.api import client
from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.output import emit, paths_of, table
from wardmesh.cli.store_reports import from_store
from wardmesh.daemon.digest import Digester, InForce, without_agent
from wardmesh.daemon.own_keys import noted_public_keys
from wardmesh.daemon.view import agent_digest
from wardmesh.health.asking import ask_all
from wardmesh.health.drift import (
    LARGEST,
    Part,
    Reference,
    Report,
    Verdict,
    document,
    judge,
    judge_all,
    reference_of,
    rows_of,
    short,
)
from wardmesh.health.record import Peer
from wardmesh.health.route import way_to
from wardmesh.host.files import read_bytes
from wardmesh.host.netlink import Netlink
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.wireguard.mark import OWN_PREFIX

ASK = 10.0  # seconds


def in_force(paths: Paths) -> InForce:
    """What the agent took over, by its own word; from the last good copies where it does not answer."""
    try:
        said = client.call(paths.socket, "GET", "/v1/status", timeout=ASK)
    except WardmeshError:
        return without_agent(paths)
    digests = {str(name): str(value) for name, value in said["digests"].items()}
    return InForce(digests, int(said["generation"]), running=True)


def own_report(paths: Paths) -> Report:
    """Read now, by this process."""
    if os.geteuid():
        raise WardmeshError("only root can read what the kernel holds", remedy="run it as root")
    return Digester(paths).report(in_force(paths), agent_digest())


def digest(args: argparse.Namespace) -> int:
    """Print what this host enforces and what it should, part by part."""
    report = own_report(paths_of(args))
    verdict = judge(report, {})
    found = {**document(report), "drifted": verdict.drifted}
    rows = [(part.name, part.enforced, part.wanted, "; ".join(_words(part))) for part in report.parts]
    lines = [table(("PART", "ENFORCED", "WANTED", "DIFFERENCES"), rows)]
    lines.append(f"digest {report.digest}, {'DRIFTED' if verdict.drifted else 'as it should be'}")
    return emit(args, found, "\n".join(lines))


def _words(part: Part) -> tuple[str, ...]:
    if part.differences:
        return part.differences
    told = ", ".join(f"{key} {short(value)}" for key, value in part.values.items())
    return (told,) if told else ()


def drift(args: argparse.Namespace) -> int:
    """Ask the others, and name those that differ; exit status 1 where any does."""
    paths = paths_of(args)
    own = own_report(paths)
    reference = _read_reference(args) or reference_of(own)
    fleet = _fleet(paths, args.member)
    others, health = from_store(paths, fleet) if args.store else (_asked(paths, fleet), {})
    wanted = frozenset(args.member)
    reports = [report for report in (own, *others) if report is own or report.host != own.host]
    reports = [report for report in reports if not wanted or report.host in wanted]
    verdicts = judge_all(reports, reference)
    rows = rows_of(verdicts)
    found = {"hosts": rows, "drifted": [row["host"] for row in rows if row["drifted"]], "health": health}
    emit(args, found, words(verdicts))
    return 1 if any(item.drifted for item in verdicts) else 0


def words(verdicts: Iterable[Verdict]) -> str:
    """A table of those that differ, and how many do not."""
    found = list(verdicts)
    rows = [(item.host, ",".join(item.reasons), item.words()) for item in found if item.drifted]
    good = f"{len(found) - len(rows)} of {len(found)} hosts are as they should be"
    return f"{table(('HOST', 'PARTS', 'WHY'), rows)}\n{good}" if rows else good


def _read_reference(args: argparse.Namespace) -> Reference:
    if args.reference is None:
        return {}
    try:
        found = json.loads((read_bytes(args.reference) or b"")[:LARGEST])
        return {part: {str(k): str(v) for k, v in fields.items()} for part, fields in found.items()}
    except (ValueError, AttributeError) as error:
        raise WardmeshError(
            "not a reference", where=str(args.reference), why=str(error), remedy='{"map": {"digest": "…"}}'
        ) from error


def _fleet(paths: Paths, chosen: list[str]) -> FleetMap:
    """The map in force, or only these of its members."""
    fleet = fleet_in_force(paths)
    if fleet is None:
        raise WardmeshError("no fleet map on this host", where=str(paths.fleet), remedy="run the playbook")
    names = {member.name for member in fleet.members}
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise WardmeshError("no such member", where=", ".join(unknown), remedy="see wardmesh fleet show")
    members = tuple(member for member in fleet.members if not chosen or member.name in chosen)
    return replace(fleet, members=members)


def _asked(paths: Paths, fleet: FleetMap) -> list[Report]:
    keys = noted_public_keys(paths)
    peers = [
        Peer(member.name, tuple(map(str, member.addresses)))
        for member in fleet.members
        if member.key not in keys
    ]
    with Netlink() as link:
        return ask_all(peers, lambda address: way_to(link, address).device.startswith(OWN_PREFIX))
