# SPDX-License-Identifier: Apache-2.0
"""`wardmesh observe`: flows as lines, live or from a file, with Hubble's flags."""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from wardmesh.cli.output import paths_of
from wardmesh.daemon.own_keys import noted_public_keys, own_member
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.client import Access, ObserverClient
from wardmesh.observe.convert import flow_of, set_time
from wardmesh.observe.flags import Given, build_filters, parse_time
from wardmesh.observe.getflows import ALL, Query
from wardmesh.observe.jsonform import LONGEST_LINE, filters_of, from_json, to_json
from wardmesh.observe.printer import Printer, Style
from wardmesh.observe.proto import message
from wardmesh.observe.settings import RELAY_PORT

_DEFAULT_COUNT = 20  # flows of a plain call, as Hubble's client has it
_MOST_FROM_FILE = 1_000_000  # flows of a file that --last keeps


def observe(args: argparse.Namespace) -> int:
    """Print flows until they end, or until the reader has enough."""
    request = request_of(args)
    if args.print_raw_filters:
        for name in ("whitelist", "blacklist"):
            for item in getattr(request, name):
                print(f"{name}: {to_json(item)}")
        return 0
    printer = Printer(_style(args), _print, _complain(args))
    try:
        for answer in answers(args, request):
            printer.write(answer)
            if args.follow:
                printer.flush()
                sys.stdout.flush()
    finally:
        printer.flush()
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _complain(args: argparse.Namespace) -> Any:
    def complain(line: str) -> None:
        if not args.silent_errors:
            sys.stdout.flush()
            print(line, file=sys.stderr)

    return complain


def _style(args: argparse.Namespace) -> Style:
    colour = args.color == "always" or (
        args.color == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    )
    return Style(
        args.output,
        args.print_node_name or args.fleet,
        colour,
        not args.numeric,
        args.print_policy_names,
        args.time_format,
        args.debug,
    )


# --- requests ---


def request_of(args: argparse.Namespace) -> Any:
    """The GetFlowsRequest that the flags mean."""
    if getattr(args, "negate", False):
        raise WardmeshError("--not stands before a filter", remedy="write --not --ip 10.0.0.1")
    allow, deny = build_filters(Given(*given) for given in getattr(args, "filters", ()))
    made = message("observer.GetFlowsRequest")()
    made.whitelist.extend([*allow, *filters_of(getattr(args, "allowlist", ()), "--allowlist")])
    made.blacklist.extend([*deny, *filters_of(getattr(args, "denylist", ()), "--denylist")])
    _selection(made, args)
    if getattr(args, "field_mask", None):
        made.field_mask.paths.extend(args.field_mask.split(","))
    return made


def _selection(made: Any, args: argparse.Namespace) -> None:
    follow = getattr(args, "follow", False)
    chosen = [name for name in ("last", "first", "all") if getattr(args, name)]
    if len(chosen) > 1:
        raise WardmeshError(f"--{chosen[0]} and --{chosen[1]} exclude each other")
    if follow and (args.first or args.until):
        raise WardmeshError("--follow goes on from now: neither --first nor --until goes with it")
    if args.since:
        set_time(made.since, parse_time(args.since, "since"))
    if args.until:
        set_time(made.until, parse_time(args.until, "until"))
    made.follow, made.first = follow, bool(args.first)
    if args.all:
        made.number = ALL
    elif args.last or args.first:
        made.number = args.last or args.first
    elif not (args.since or args.until or follow):
        made.number = getattr(args, "default_count", _DEFAULT_COUNT)


# --- answers ---


def answers(args: argparse.Namespace, request: Any) -> Iterator[Any]:
    """GetFlowsResponse after GetFlowsResponse, from a server or a file."""
    if args.input_file:
        if args.server or args.fleet:
            raise WardmeshError("--input-file needs no server", remedy="leave one of them out")
        yield from _from_file(args.input_file, request)
        return
    with ObserverClient(access_of(args)) as client:
        yield from client.flows(request)


def access_of(args: argparse.Namespace) -> Access:
    """The server that the flags name; without any this host's observer."""
    if args.fleet and args.server:
        raise WardmeshError("--fleet and --server exclude each other", remedy="leave one of them out")
    tls = args.tls or bool(args.tls_ca or args.tls_cert or args.tls_key)
    if args.fleet and not tls:
        return own_relay(paths_of(args))
    default = f"127.0.0.1:{RELAY_PORT}" if args.fleet else f"unix://{paths_of(args).hubble}"
    target = args.server or (None if args.fleet else os.environ.get("HUBBLE_SERVER")) or default
    return Access(target, tls, args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name)


def own_relay(paths: Paths) -> Access:
    """The relay of this host, as its configuration has it: by TLS where it listens beyond loopback."""
    from wardmesh.observe.own_relay import relay_access
    from wardmesh.observe.service import read_fleet, settings_of

    fleet = read_fleet(paths)
    member = own_member(fleet, noted_public_keys(paths)) if fleet is not None else None
    cluster = fleet.cluster.name if fleet is not None else ""
    return relay_access(settings_of(paths), member.name if member is not None else "", cluster)


def _from_file(name: str, request: Any) -> Iterator[Any]:
    query = Query(request)
    try:
        if name == "-":
            yield from _chosen(_lines(sys.stdin, "standard input"), query)
            return
        with open(name, encoding="utf-8", errors="replace") as stream:
            yield from _chosen(_lines(stream, name), query)
    except OSError as error:
        raise WardmeshError(
            "cannot read flows", where=name, why=error.strerror or str(error), remedy="name another file"
        ) from error


def _lines(stream: TextIO, name: str) -> Iterator[Any]:
    number = 0
    while True:
        line = stream.readline(LONGEST_LINE)
        if not line:
            return
        number += 1
        if line.strip():
            yield from_json(line, "observer.GetFlowsResponse", f"{name}:{number}")


def _chosen(found: Iterable[Any], query: Query) -> Iterator[Any]:
    """What a server would have answered from these."""
    kept = (a for a in found if not a.HasField("flow") or query.wants(flow_of(a.flow)))
    if query.number and query.first:
        yield from itertools.islice(kept, query.number)
    elif query.number:
        yield from collections.deque(kept, min(query.number, _MOST_FROM_FILE))
    else:
        yield from kept
