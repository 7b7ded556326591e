# SPDX-License-Identifier: Apache-2.0
"""encryption rotate: this host's part of a rotation of keys. The whole of it is playbooks/rotate_keys.yml."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from wardmesh.api import client
from wardmesh.cli.output import emit, paths_of
from wardmesh.cli.state import LIMIT
from wardmesh.host.paths import Paths

_MEANING = {
    "none": "no keys rotate",
    "staged": "a second tunnel is up beside the first one, which still carries everything",
    "active": "the second tunnel carries what it can",
    "retiring": "the new keys are in use; the second tunnel goes when nobody uses it any more",
}


def rotate(args: argparse.Namespace) -> int:
    """Without a phase: where this host stands."""
    if args.phase == "stage":
        return _stage(args)
    paths = paths_of(args)
    if args.phase is not None:
        body = {"phase": args.phase, "dryRun": args.dry_run}
        answer = client.call(paths.socket, "POST", "/v1/rotate", body, timeout=LIMIT)
        return emit(args, answer, words(answer))
    document = {"changed": False, **standing(paths)}
    return emit(args, document, words(document))


def standing(paths: Paths) -> dict[str, Any]:
    """The agent's report, the digest of its map, and the staged key, which it may not know of."""
    from wardmesh.wireguard.keys import staged_key

    status = client.call(paths.socket, "GET", "/v1/status")
    return {
        **status["rotation"],
        "fleet": status["digests"]["fleet"],
        "staged": staged_key(paths),
        "unreachable": [peer["name"] for peer in status["peers"] if not peer["reachable"]],
    }


def _stage(args: argparse.Namespace) -> int:
    from wardmesh.wireguard.keys import stage_next

    known = stage_next(paths_of(args), dry_run=args.dry_run)
    document = {
        "changed": known.created,
        "next_public_key": known.public_key or "",
        "key_generation": known.generation,
    }
    said = (
        f"next public key: {known.public_key or 'none yet'}\nthe present one stays in use: the fleet has to "
    )
    return emit(args, document, f"{said}learn the next one first (playbooks/rotate_keys.yml)")


def words(report: Mapping[str, Any]) -> str:
    """A report for people."""
    lines = [f"{report['phase']}: {_MEANING[report['phase']]}"]
    if report["pairs"]:
        lines.append(f"second tunnel:  {report['interface']}, UDP {report['listenPort']}")
        lines.append(f"sends through it to {', '.join(report['sending']) or 'nobody'}")
    if report["waiting"]:
        lines.append(f"not up yet: {', '.join(report['waiting'])}")
    return "\n".join(lines)
