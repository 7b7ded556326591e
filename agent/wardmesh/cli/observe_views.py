# SPDX-License-Identifier: Apache-2.0
"""`wardmesh top`, `flows summary` and `policy suggest`: flows added up on the client's side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from wardmesh.cli.observe import answers, request_of
from wardmesh.cli.output import emit, paths_of, table
from wardmesh.host.files import read_bytes
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.observe.aggregate import Sum, Top, graph, pairs, ranked
from wardmesh.observe.convert import flow_of
from wardmesh.observe.flow import Flow, Verdict
from wardmesh.observe.printer import plain
from wardmesh.observe.suggest import suggest as suggest_policies

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def _flows(args: argparse.Namespace, **filters: Any) -> Iterator[Flow]:
    """The chosen flows; gaps and members that are missing are told on stderr."""
    args.default_count = 0  # everything that is kept
    request = request_of(args)
    if filters:
        request.whitelist.add(**filters)
    for answer in answers(args, request):
        if answer.HasField("flow"):
            yield flow_of(answer.flow)
        elif answer.HasField("lost_events"):
            print(f"wardmesh: {answer.lost_events.num_events_lost} events were lost", file=sys.stderr)
        elif answer.node_status.state_change in (2, 4):
            names = ", ".join(map(plain, answer.node_status.node_names))
            print(f"wardmesh: no flows of {names}", file=sys.stderr)


def _size(count: int) -> str:
    value, unit = float(count), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def _tunnel(total: Sum) -> str:
    if not total.plain:
        return "yes"
    return "no" if total.plain == total.seen else "partly"


def top(args: argparse.Namespace) -> int:
    """Three tables: talkers, drops by reason, peers."""
    held = Top()
    for flow in _flows(args):
        held.add(flow)
    talkers, drops = ranked(held.talkers, args.count), ranked(held.drops, args.count)
    peers = ranked(held.peers, args.count)
    drops.sort(key=lambda row: (-row[1].dropped, row[0]))
    document = {
        "talkers": [{"from": key[0], "to": key[1], **total.document()} for key, total in talkers],
        "drops": [{"reason": key[0], "direction": key[1], "count": row.seen} for key, row in drops],
        "peers": [{"peer": key, **total.document()} for key, total in peers],
    }
    words = [
        table(
            ("FROM", "TO", "CONNECTIONS", "DROPPED", "BYTES", "TUNNEL"),
            [(*map(plain, key), *_cells(total), _tunnel(total)) for key, total in talkers],
        ),
        "",
        table(("DROPS", "DIRECTION", "COUNT"), [(key[0], key[1], str(total.seen)) for key, total in drops]),
        "",
        table(
            ("PEER", "CONNECTIONS", "DROPPED", "BYTES", "TUNNEL"),
            [(plain(key), *_cells(total), _tunnel(total)) for key, total in peers],
        ),
    ]
    return emit(args, document, "\n".join(words))


def _cells(total: Sum) -> tuple[str, str, str]:
    return str(total.connections), str(total.dropped), _size(total.bytes)


def summary(args: argparse.Namespace) -> int:
    """Pairs and ports, as a table, JSON, or a graph for Graphviz."""
    found = pairs(_flows(args))
    if args.output == "dot":
        print(graph(found))
    elif args.output == "json":
        rows = [
            {"from": left, "to": right, "port": port, **total.document()}
            for (left, right, port), total in found.items()
        ]
        print(json.dumps({"flows": rows}))
    else:
        head = ("FROM", "TO", "PORT", "FORWARDED", "DROPPED", "AUDITED", "BYTES", "TUNNEL")
        rows_of = [
            (
                plain(left),
                plain(right),
                port,
                str(total.forwarded),
                str(total.dropped),
                str(total.audited),
                _size(total.bytes),
                _tunnel(total),
            )
            for (left, right, port), total in found.items()
        ]
        print(table(head, rows_of))
    return 0


def suggest(args: argparse.Namespace) -> int:
    """Policies that admit what audit mode recorded, as YAML."""
    words = [word.upper() for given in args.verdict for word in given.split(",")] or ["AUDIT"]
    known = {verdict.name: verdict.value for verdict in Verdict}
    wrong = [word for word in words if word not in known]
    if wrong:
        raise WardmeshError(f"{wrong[0]!r} is no verdict", where="--verdict", remedy=", ".join(known))
    fleet = _fleet(args)
    seen = _flows(
        args,
        event_type=[{"type": 5}],
        verdict=[known[word] for word in words],
    )
    made = suggest_policies(seen, fleet)
    return emit(args, {"policies": made.documents, "notAdmitted": made.unsaid}, made.text().rstrip("\n"))


def _fleet(args: argparse.Namespace) -> FleetMap:
    path = args.map or paths_of(args).fleet
    data = read_bytes(path)
    if data is None:
        raise WardmeshError("no fleet map", where=str(path), remedy="name it with --fleet FILE")
    return parse_fleet_map(data, str(path))
