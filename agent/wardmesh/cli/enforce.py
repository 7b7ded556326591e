# SPDX-License-Identifier: Apache-2.0
"""Verbs that change or show the policies of this host: apply, confirm, get, delete."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wardmesh.api import client
from wardmesh.cli.output import emit, paths_of, table
from wardmesh.cli.policy import policy_files, text_of
from wardmesh.cli.rule_counts import policy_with_counts
from wardmesh.cli.state import LIMIT
from wardmesh.host.files import write_atomic
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.policy.documents import Policy
from wardmesh.policy.files import parse_policies


def _installed(paths: Paths) -> dict[str, str]:
    """The files in /etc by name."""
    return {path.name: text_of(path) for path in policy_files([paths.policies])}


def _write(paths: Paths, files: dict[str, str]) -> None:
    """Bring the folder to these files; files that are no policies stay."""
    paths.policies.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, text in files.items():
        target = paths.policies / name
        if not target.exists() or text_of(target) != text:
            write_atomic(target, text.encode(), 0o644)
    for path in policy_files([paths.policies]):
        if path.name not in files:
            path.unlink(missing_ok=True)


def _install(paths: Paths, files: dict[str, str]) -> None:
    """Write and take over; on an error the folder is as it was."""
    before = _installed(paths)
    try:
        _write(paths, files)
        if client.listens(paths.socket):
            client.call(paths.socket, "POST", "/v1/reload", {}, timeout=LIMIT)
    except WardmeshError:
        _write(paths, before)
        raise


def _wanted(args: argparse.Namespace, before: dict[str, str]) -> dict[str, str]:
    given = {path.name: text_of(path) for path in policy_files(args.file)}
    if args.replace and not given:
        raise WardmeshError(
            "no policy file is there",
            where=", ".join(map(str, args.file)),
            why="a set of none would open this host",
            remedy="name a folder with files, or use wardmesh policy delete --all",
        )
    return given if args.replace else {**before, **given}


def apply(args: argparse.Namespace) -> int:
    """Check the whole set with these files in it, and put it in force."""
    paths = paths_of(args)
    before = _installed(paths)
    files = _wanted(args, before)
    held = parse_policies(sorted(files.items()), str(paths.policies))
    changes = _preview(paths, files)
    document: dict[str, Any] = {
        "changed": files != before,
        "policies": [policy.name for policy in held.policies],
        "changes": changes,
        "pending": False,
        "diff": {"before": _listing(before), "after": _listing(files)},
    }
    if document["changed"] and not args.dry_run:
        if args.confirm_within:
            body = {"files": files, "confirmWithin": args.confirm_within}
            client.call(paths.socket, "POST", "/v1/policy/try", body, timeout=LIMIT)
            document["pending"] = True
        else:
            _install(paths, files)
    words = [f"{row['change']:6} {row['from']} -> {row['to']} {row['ports']}" for row in changes]
    state = "on trial" if document["pending"] else "in force" if document["changed"] else "unchanged"
    words.append(f"{len(held.policies)} policies {'would be ' if args.dry_run else ''}{state}")
    return emit(args, document, "\n".join(words))


def _preview(paths: Paths, files: dict[str, str]) -> list[dict[str, Any]]:
    if not client.listens(paths.socket):
        return []
    answer = client.call(paths.socket, "POST", "/v1/policy/preview", {"files": files}, timeout=LIMIT)
    return list(answer["changes"])


def _listing(files: dict[str, str]) -> str:
    return "".join(f"# {name}\n{text.rstrip()}\n" for name, text in sorted(files.items()))


def confirm(args: argparse.Namespace) -> int:
    """Keep the policies that are on trial."""
    paths = paths_of(args)
    answer = client.call(paths.socket, "POST", "/v1/policy/confirm", {}, timeout=LIMIT)
    _install(paths, answer["files"])
    document = {"changed": True, "revision": answer["revision"], "files": sorted(answer["files"])}
    return emit(args, document, f"confirmed: {', '.join(document['files']) or 'no policies'}")


def get(args: argparse.Namespace) -> int:
    """The policies in force, as they were written, and how many flows each rule decided."""
    answer = policy_with_counts(paths_of(args))
    words = _listing(answer["files"]) + _counts(answer) + f"Revision: {answer['revision']}"
    if answer["pending"]:
        words += f"\non trial, {answer['secondsLeft']:g} s left"
    return emit(args, answer, words)


def _counts(answer: dict[str, Any]) -> str:
    """The rules as a table; a few words where there is none."""
    if "countsProblem" in answer:
        return f"New flows by rule cannot be told: {answer['countsProblem']}\n"
    rows = []
    for row in answer["rules"]:
        policy = f"{row['namespace']}/{row['name']}" if row["namespace"] else row["name"]
        place = f"{row['file']}: {policy} {row['rule']}" if row["file"] else row["rule"]
        flows = str(row["flows"]) if row["flows"] == row["atMost"] else f"{row['flows']}-{row['atMost']}"
        rows.append((row["verdict"].capitalize(), row["direction"].capitalize(), flows, place))
    return table(("POLICY", "DIRECTION", "NEW FLOWS", "RULE"), rows) + "\n"


def delete(args: argparse.Namespace) -> int:
    """Remove policies by name; --all removes every file."""
    paths = paths_of(args)
    before = _installed(paths)
    if not args.name and not args.all:
        raise WardmeshError("which policies?", remedy="name them, or use --all")
    gone = set(before) if args.all else {_file_of(before, name, paths.policies) for name in args.name}
    files = {name: text for name, text in before.items() if name not in gone}
    if gone and not args.dry_run:
        _install(paths, files)
    document = {"changed": bool(gone), "removed": sorted(gone)}
    return emit(args, document, f"removed: {', '.join(sorted(gone)) or 'nothing'}")


def _file_of(files: dict[str, str], name: str, folder: Path) -> str:
    """The file that holds a policy of this name, or is called so; it must hold nothing else."""
    for file, text in files.items():
        held = parse_policies([(file, text)], str(folder)).policies
        if file == name or any(_called(policy, name) for policy in held):
            if len(held) > 1 and file != name:
                raise WardmeshError(
                    "the file holds other policies, too", where=file, remedy=f"name the file itself: {file}"
                )
            return file
    raise WardmeshError("no such policy", where=name, remedy="wardmesh policy get shows those in force")


def _called(policy: Policy, name: str) -> bool:
    return policy.name == name
