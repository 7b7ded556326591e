# SPDX-License-Identifier: Apache-2.0
"""Verbs about labels: labels add, remove, list; identity list, get; endpoint list."""

from __future__ import annotations

import argparse
from typing import Any

from wardmesh.api import client
from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.output import emit, paths_of, table
from wardmesh.host.files import read_bytes, write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.identity import RESERVED, identities, member_labels
from wardmesh.model.labels import check_key, labels_document, parse_labels, read_labels


def by_hand(paths: Paths) -> dict[str, str]:
    """Labels that were added on this host."""
    return read_labels(read_bytes(paths.labels), str(paths.labels))


def add(args: argparse.Namespace) -> int:
    """Give this host labels; the fleet learns them with the next rollout."""
    before = by_hand(paths_of(args))
    return _keep(args, before, {**before, **parse_labels(args.label, "labels add")})


def remove(args: argparse.Namespace) -> int:
    """Take labels away that were added on this host."""
    before = by_hand(paths_of(args))
    keys = {check_key(word.partition("=")[0], "labels remove") for word in args.label}
    return _keep(args, before, {key: value for key, value in before.items() if key not in keys})


def _keep(args: argparse.Namespace, before: dict[str, str], after: dict[str, str]) -> int:
    changed = before != after
    if changed and not args.dry_run:
        write_atomic(paths_of(args).labels, labels_document(after), 0o644)
    document = {"changed": changed, "before": before, "labels": after}
    words = [f"{key}={value}" for key, value in sorted(after.items())] or ["no labels added on this host"]
    if changed:
        words.append("the fleet learns it with the next run of site.yml")
    return emit(args, document, "\n".join(words))


def listing(args: argparse.Namespace) -> int:
    """Labels of this host: those in force, and those that the fleet map does not know yet."""
    paths = paths_of(args)
    own, fleet = by_hand(paths), fleet_in_force(paths)
    member = fleet.by_name(own_name(paths)) if fleet else None
    held = sorted(member_labels(member, fleet.cluster.name)) if fleet and member else []
    known = dict(member.labels) if member else {}
    pending = {key: value for key, value in own.items() if known.get(key) != value}
    words = [*held, *(f"{key}={value} (not in the fleet map yet)" for key, value in sorted(pending.items()))]
    return emit(args, {"labels": held, "byHand": own, "pending": pending}, "\n".join(words) or "no labels")


def own_name(paths: Paths) -> str:
    """This host's name in the fleet; empty where no agent runs to tell it."""
    return str(client.call(paths.socket, "GET", "/v1/status")["self"]) if client.listens(paths.socket) else ""


# --- identities ---


def _identities(paths: Paths) -> list[dict[str, Any]]:
    fleet = fleet_in_force(paths)
    rows: dict[int, dict[str, Any]] = {
        number: {"id": number, "labels": [f"reserved:{name}"], "members": []}
        for number, name in RESERVED.items()
    }
    if fleet is not None:
        numbers = identities(fleet)
        for member in fleet.members:
            row = rows.setdefault(
                numbers[member.name],
                {
                    "id": numbers[member.name],
                    "labels": sorted(member_labels(member, fleet.cluster.name)),
                    "members": [],
                },
            )
            row["members"].append(member.name)
    return [rows[number] for number in sorted(rows)]


def identity_list(args: argparse.Namespace) -> int:
    """Every identity of the fleet, the reserved ones included."""
    rows = _identities(paths_of(args))
    lines = [(str(row["id"]), ",".join(row["labels"])) for row in rows]
    return emit(args, {"identities": rows}, table(("ID", "LABELS"), lines))


def identity_get(args: argparse.Namespace) -> int:
    """One identity."""
    found = next((row for row in _identities(paths_of(args)) if row["id"] == args.id), None)
    if found is None:
        raise WardmeshError("no such identity", where=str(args.id), remedy="wardmesh identity list")
    return emit(
        args, found, table(("ID", "LABELS"), [(str(found["id"]), label) for label in found["labels"]])
    )


_ENDPOINT_COLUMNS = (
    "ENDPOINT",
    "POLICY (ingress) ENFORCEMENT",
    "POLICY (egress) ENFORCEMENT",
    "IDENTITY",
    "LABELS (source:key[=value])",
    "IPv6",
    "IPv4",
    "STATUS",
)


def endpoint_list(args: argparse.Namespace) -> int:
    """The endpoint of this host: itself."""
    rows = client.call(paths_of(args).socket, "GET", "/v1/endpoints")["endpoints"]
    lines = []
    for row in rows:
        first, *more = row["labels"]
        lines.append(
            (
                str(row["id"]),
                row["ingress"],
                row["egress"],
                str(row["identity"]),
                first,
                row["ipv6"],
                row["ipv4"],
                row["status"],
            )
        )
        lines += [("", "", "", "", label, "", "", "") for label in more]
    return emit(args, {"endpoints": rows}, table(_ENDPOINT_COLUMNS, lines))
