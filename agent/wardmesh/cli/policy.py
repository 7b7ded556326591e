# SPDX-License-Identifier: Apache-2.0
"""Offline verbs of policy: validate, test, trace, diff, selectors. They need files, no agent and no root."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from wardmesh.cli.output import emit
from wardmesh.host.files import read_bytes
from wardmesh.model.errors import WardmeshError
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.policy.assertions import check_assertions, judge
from wardmesh.policy.cases import read_cases
from wardmesh.policy.documents import PolicySet, parse_text, policy_set
from wardmesh.policy.engine import Engine
from wardmesh.policy.fleet import Endpoint, implicit_labels
from wardmesh.policy.view import compare, endpoints_of, selector_rows


def text_of(path: Path) -> str:
    """A file's text; an error of ours where it is gone or not UTF-8."""
    data = read_bytes(path)
    if data is None:
        raise WardmeshError("no such file", where=str(path), remedy="name a file that is there")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WardmeshError(
            "not UTF-8", where=str(path), why=str(error), remedy="save it as UTF-8"
        ) from error


def policy_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are named, and the YAML files of folders."""
    for path in paths:
        if path.is_dir():
            yield from sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        else:
            yield path


def load(paths: Iterable[Path]) -> PolicySet:
    """The policies of files and folders, as one set; every broken file is told."""
    found, problems = [], []
    for path in policy_files(paths):
        try:
            found += parse_text(text_of(path), str(path))
        except WardmeshError as error:
            problems.append(error)
    if len(problems) > 1:
        raise WardmeshError(
            f"{len(problems)} files are not valid",
            why="; ".join(str(error) for error in problems),
            remedy="correct them; nothing was changed",
        )
    if problems:
        raise problems[0]
    return policy_set(found)


def fleet(path: Path) -> tuple[list[Endpoint], str]:
    """Endpoints and own cluster, from a fleet map or from a short list of nodes in YAML."""
    text = text_of(path)
    if text.lstrip().startswith('{"') and '"digest"' in text:
        held = parse_fleet_map(text.encode(), str(path))
        return endpoints_of(held), held.cluster.name
    return _nodes(text, str(path))


def _nodes(text: str, source: str) -> tuple[list[Endpoint], str]:
    try:
        data = yaml.safe_load(text)
        cluster = str(data.get("cluster", "default"))
        made = [
            Endpoint(
                name,
                str(node.get("cluster", cluster)),
                implicit_labels(node.get("labels") or {}, str(node.get("cluster", cluster)), name),
                tuple(ipaddress.ip_address(item) for item in _addresses(node)),
                dict(node.get("ports") or {}),
            )
            for name, node in data["nodes"].items()
        ]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise WardmeshError(
            "not a list of nodes",
            where=source,
            why=f"{type(error).__name__}: {error}",
            remedy="write nodes: {web1: {ip: 10.0.0.1, labels: {app: web}}}, or name a fleet map",
        ) from error
    return made, cluster


def _addresses(node: dict[str, Any]) -> list[str]:
    return list(node["addresses"]) if "addresses" in node else [node["ip"]]


def _engine(args: argparse.Namespace) -> Engine:
    endpoints, cluster = fleet(args.fleet)
    return Engine(load(args.file), endpoints, cluster)


# --- validate ---


def validate(args: argparse.Namespace) -> int:
    """Check files as a whole set; features of later versions are told."""
    held = load(args.file)
    later = [f"{policy.source}: {text}" for policy in held.policies for text in policy.later]
    rows = [{"file": policy.source, "kind": policy.kind, "name": policy.name} for policy in held.policies]
    words = [f"{text}: not enforced in this version; apply refuses it" for text in later]
    words.append(f"{len(rows)} policies, {len(held.groups)} CIDR groups: valid")
    document = {"valid": True, "policies": rows, "notEnforced": later}
    return emit(args, document, "\n".join(words))


# --- test ---


def test(args: argparse.Namespace) -> int:
    """Run tables of cases, or an operator's assertions; exit status 1 on any difference."""
    if args.cases:
        return _test_cases(args)
    if not args.fleet:
        raise WardmeshError("whose policy?", remedy="name the nodes or the map with --fleet, or use --cases")
    policies = [path for path in args.file if path not in args.tests]
    engine = Engine(load(policies), *fleet(args.fleet))
    failed, count = [], 0
    for path in args.tests:
        checked, wrong = check_assertions(engine, text_of(path), str(path))
        count += checked
        failed += wrong
    words = [*failed, f"{count - len(failed)} of {count} assertions hold"]
    emit(args, {"assertions": count, "failed": failed}, "\n".join(words))
    return 1 if failed else 0


def _test_cases(args: argparse.Namespace) -> int:
    cases = verdicts = 0
    differences = []
    for path in args.cases:
        for case in read_cases(text_of(path), str(path)):
            cases += 1
            verdicts += 2 * len(case.queries)
            differences += [str(item) for item in case.differences()]
    words = [*differences, f"{cases} cases, {verdicts} verdicts, {len(differences)} differences"]
    document = {"cases": cases, "verdicts": verdicts, "differences": differences}
    emit(args, document, "\n".join(words))
    return 1 if differences else 0


# --- trace ---


def trace(args: argparse.Namespace) -> int:
    """Which rule of which file decides about a flow, on both sides, or why none does."""
    answer = judge(_engine(args), args.source, args.target, args.port)
    words = [f"egress of {args.source}: {answer['egress']}", f"ingress of {args.target}: {answer['ingress']}"]
    return emit(args, answer, "\n".join([*words, f"verdict: {answer['verdict']}"]))


# --- diff, selectors ---


def diff(args: argparse.Namespace) -> int:
    """Which pairs and ports a new set opens or closes; exit status 1 when it changes anything."""
    endpoints, cluster = fleet(args.fleet)
    rows = compare(load([args.old]), load([args.new]), endpoints, cluster)
    words = [f"{row['change']:6} {row['from']} -> {row['to']} {row['ports']}" for row in rows]
    emit(args, {"changes": rows}, "\n".join(words or ["no pair of members and no port changes"]))
    return 1 if rows else 0


def selectors(args: argparse.Namespace) -> int:
    """Whom each selector selects; a rule that selects nobody is told."""
    rows, warnings = selector_rows(_engine(args))
    words = [f"{row['where']}: {row['selector']}: {', '.join(row['selects']) or 'nobody'}" for row in rows]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return emit(args, {"selectors": rows, "warnings": warnings}, "\n".join(words))
