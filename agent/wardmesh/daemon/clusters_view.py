# SPDX-License-Identifier: Apache-2.0
"""The other clusters as the API shows them: what was asked for, what was learned, what is in force."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from wardmesh.daemon.inputs import Inputs
from wardmesh.discovery.clusters import Remote
from wardmesh.discovery.join import Joined
from wardmesh.model.identity import REMOTE_NODE, identities

_MOST_NAMED = 20  # problems of one cluster


def cluster_rows(
    inputs: Inputs, reachable: Collection[str], said: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A row for each cluster. reachable: names of peers; said: by the stores' followers, by cluster."""
    joined = {row.name: row for row in inputs.joined}
    numbers = identities(inputs.fleet) if inputs.joined and inputs.fleet is not None else {}
    return [
        _row(remote, joined.get(remote.name) or Joined(remote.name, remote.id), numbers, reachable, said)
        for remote in inputs.remotes
    ]


def _row(
    remote: Remote,
    joined: Joined,
    numbers: Mapping[str, int],
    reachable: Collection[str],
    all_said: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    said = all_said.get(remote.name, {})
    by_store = remote.store is not None
    waiting = "not started yet" if by_store and not said else ""
    problem = str(said.get("problem") or waiting)
    found = {numbers[name] for name in joined.members if numbers.get(name, 0) > REMOTE_NODE}
    return {
        "name": remote.name,
        "id": joined.id or int(said.get("id") or 0),
        "source": "store" if by_store else "nodes",
        "server": str(said.get("server") or ""),
        "connected": bool(said.get("connected")),
        "tls": bool(remote.store and remote.store.servers[0].tls),
        "ready": not joined.problem and not problem and (bool(said.get("connected")) or not by_store),
        "nodes": len(joined.members),
        "reachable": sum(name in reachable for name in joined.members),
        "identities": len(found | joined.identities),
        "addresses": joined.pods,
        "unresolved": int(said.get("unresolved") or 0),
        "refused": joined.refused + int(said.get("refusedRecords") or 0),
        "skipped": int(said.get("skipped") or 0),
        "lastChange": int(said.get("lastChange") or 0),
        "problems": _problems(remote, joined, problem, said),
    }


def _problems(remote: Remote, joined: Joined, problem: str, said: Mapping[str, Any]) -> list[str]:
    found = [joined.problem] if joined.problem else []
    found += [problem] if problem else []
    found += [f"{item.name} refused: {item.why}" for item in joined.named]
    found += [f"{row['key']} skipped: {row['why']}" for row in said.get("skippedRecords", ())]
    found += [f"{address} is no peer: it has no publicKey" for address in remote.keyless]
    return found[:_MOST_NAMED]


def cluster_warnings(rows: list[dict[str, Any]]) -> list[str]:
    """What an operator should know. No problem of the agent: what was learned stays."""
    found = [f"cluster {row['name']}: {problem}" for row in rows for problem in row["problems"]]
    return found + [
        f"cluster {row['name']}: its store is reached without TLS; whoever is on the way can make members"
        for row in rows
        if row["source"] == "store" and not row["tls"]
    ]
