# SPDX-License-Identifier: Apache-2.0
"""Verbs that ask the running agent: status, encryption."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wardmesh import __version__
from wardmesh.api import client
from wardmesh.cli import text
from wardmesh.cli.output import emit, paths_of
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

if TYPE_CHECKING:  # the file is read only where no observer and no checks answer
    from wardmesh.model.config import Config

POLL = 0.25  # seconds between two questions of status --wait
HEALTH_ASK = 5.0  # seconds
REFUSED = "not known: the configuration is refused"
LIMIT = 330.0  # seconds; the agent itself gives up after 300


def status(args: argparse.Namespace) -> int:
    """Print the state; with --wait only when every tunnel is up, or time is."""
    path = paths_of(args).socket
    data = client.call(path, "GET", "/v1/status") if args.wait is None else _wait(args)
    data = {**data, "hubble": _hubble(args), "health": health_of(paths_of(args))}
    said = text.status(data, health=args.all_health, verbose=args.verbose, hubble=data["hubble"])
    emit(args, data, said)
    if args.wait is None:
        return 0
    missing = [peer["name"] for peer in data["peers"] if not peer["reachable"]]
    if missing:
        raise WardmeshError(
            f"no tunnel to {', '.join(missing)}",
            why=f"waited {args.wait:g} s",
            remedy=f"see that UDP {data['listenPort']} passes between the hosts, and that their agents run",
        )
    if data["problems"]:
        raise WardmeshError(
            "the agent has problems", why="; ".join(data["problems"]), remedy="journalctl -u wardmesh"
        )
    return 0


def clustermesh_status(args: argparse.Namespace) -> int:
    """The other clusters; 1 when one is not ready."""
    data = client.call(paths_of(args).socket, "GET", "/v1/status")
    rows = data.get("clustermesh", [])
    emit(args, {"clusters": rows}, text.clustermesh(rows, data["time"]))
    return 0 if all(row["ready"] for row in rows) else 1


def _configured(paths: Paths) -> Config | None:
    """What the file says; None where it is refused, which the agent names among its problems."""
    from wardmesh.cli.local import read_config

    try:
        return read_config(paths.config, needed=False)
    except WardmeshError:
        return None


def _hubble(args: argparse.Namespace) -> str:
    """OK, disabled, or what is wrong with the observer."""
    paths = paths_of(args)
    if client.listens(paths.hubble):
        return "OK"
    config = _configured(paths)
    if config is None:
        return REFUSED
    return "wardmesh-observer does not answer" if config.values["hubble.enabled"] else "disabled"


def health_of(paths: Paths) -> dict[str, Any] | None:
    """What wardmesh-health knows; None where it is switched off, {"problems": …} where it does not answer."""
    config = _configured(paths)
    if config is None:
        return {"problems": [REFUSED]}
    if not config.health.enabled:
        return None
    try:
        return client.call(paths.health, "GET", "/v1/health", timeout=HEALTH_ASK)
    except WardmeshError as error:
        return {"problems": [f"wardmesh-health: {error.why or error.what}"]}


def _wait(args: argparse.Namespace) -> dict[str, Any]:
    """Ask until nothing is missing or time is up; progress goes to stderr. The last answer."""
    path = paths_of(args).socket
    deadline = time.monotonic() + args.wait
    told = ""
    while True:
        try:
            data = client.call(path, "GET", "/v1/status")
            waiting = _waiting_for(data)
        except WardmeshError as error:
            if time.monotonic() >= deadline:
                raise
            data, waiting = {}, str(error.what)
        if data and (not waiting or time.monotonic() >= deadline):
            return data
        if waiting != told:
            print(f"waiting: {waiting}", file=sys.stderr, flush=True)
            told = waiting
        time.sleep(POLL)


def _waiting_for(data: Mapping[str, Any]) -> str:
    missing = [peer["name"] for peer in data["peers"] if not peer["reachable"]]
    if missing:
        up = len(data["peers"]) - len(missing)
        return f"{up} of {len(data['peers'])} tunnels up, no tunnel to {', '.join(missing[:10])}"
    return "; ".join(data["problems"])


def version(args: argparse.Namespace) -> int:
    """Print the version of this file."""
    return emit(args, {"version": __version__}, f"wardmesh {__version__}")


def encryption_status(args: argparse.Namespace) -> int:
    """Print encryption and handshakes by peer."""
    data = client.call(paths_of(args).socket, "GET", "/v1/encryption")
    return emit(args, data, text.encryption(data, time.time()))


def encryption_key(args: argparse.Namespace) -> int:
    """Print the public key; needs no running agent."""
    from wardmesh.wireguard.keys import load_or_create, staged_key

    paths = paths_of(args)
    known = load_or_create(paths, dry_run=True)
    if known.public_key is None:
        raise WardmeshError("no key on this host", where=str(paths.key), remedy="run: wardmesh node init")
    following = staged_key(paths)
    document = {"publicKey": known.public_key, "generation": known.generation}
    return emit(args, {**document, **({"nextPublicKey": following} if following else {})}, known.public_key)


def encryption_mode(args: argparse.Namespace) -> int:
    """Print or set the mode in force."""
    path = paths_of(args).socket
    if args.mode is None:
        data = client.call(path, "GET", "/v1/encryption")
        answer: dict[str, Any] = {
            "changed": False,
            "mode": data["mode"],
            "wish": data["wish"],
            "sealed": [peer["name"] for peer in data["peers"] if peer["sealed"]],
            "unverified": [peer["name"] for peer in data["peers"] if not peer["reachable"]],
        }
        return emit(args, answer, str(data["mode"]))
    body = {"mode": args.mode, "all": args.all, "dryRun": args.dry_run}
    answer = client.call(path, "POST", "/v1/mode", body, timeout=LIMIT)
    words = [f"mode {answer['mode']}, sealed: {', '.join(answer['sealed']) or 'nobody'}"]
    if answer["unverified"]:
        words.append(f"no tunnel yet: {', '.join(answer['unverified'])}")
    return emit(args, answer, "\n".join(words))
