# SPDX-License-Identifier: Apache-2.0
"""Arguments to verbs, and the one place where a WardmeshError becomes text and an exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from wardmesh.cli import verbs
from wardmesh.model.errors import WardmeshError


def parser() -> argparse.ArgumentParser:
    """The whole command line; docs/reference/cli.md is generated from it."""
    top = argparse.ArgumentParser(prog="wardmesh", description="Zero-trust network of ordinary Linux hosts.")
    top.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    sub = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(
        group: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, action: verbs.Verb
    ) -> argparse.ArgumentParser:
        made = group.add_parser(name, help=text, description=text)
        made.set_defaults(action=action)
        return made

    def output(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "-o", "--output", choices=("text", "json"), default="text", help="form of the output"
        )
        made.add_argument("--json", dest="output", action="store_const", const="json", help="same as -o json")

    def group(name: str, text: str) -> argparse._SubParsersAction[argparse.ArgumentParser]:
        return sub.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="VERB")

    add(sub, "daemon", "run the agent (systemd does this)", verbs.daemon)
    add(sub, "boot", "guard from the last good state, before the network is up", verbs.boot)
    status = add(sub, "status", "state of the agent and of its peers", verbs.status)
    output(status)
    status.add_argument(
        "--wait",
        nargs="?",
        type=float,
        const=60.0,
        default=None,
        metavar="SECONDS",
        help="wait until every tunnel is up",
    )
    status.add_argument("--all-health", action="store_true", help="every peer with its tunnel")
    status.add_argument("--verbose", action="store_true", help="counters of the guard")
    output(add(sub, "version", "version of the agent", verbs.version))
    clean = add(sub, "cleanup", "remove everything that the agent put into the kernel", verbs.cleanup)
    clean.add_argument("--dry-run", action="store_true", help="say what would be removed")
    output(clean)

    encryption = group("encryption", "encryption between members")
    output(add(encryption, "status", "encryption and handshakes by peer", verbs.encryption_status))
    output(add(encryption, "key", "the public key of this host", verbs.encryption_key))
    mode = add(encryption, "mode", "show or set the mode in force", verbs.encryption_mode)
    mode.add_argument("mode", nargs="?", choices=("prefer", "strict"), help="the mode to set")
    mode.add_argument("--all", action="store_true", help="seal members too whose tunnel is not up")
    mode.add_argument("--dry-run", action="store_true", help="say what would change")
    output(mode)

    config = group("config", "configuration")
    validate = add(config, "validate", "check a configuration file", verbs.config_validate)
    validate.add_argument("file", nargs="?", type=Path, help="default: the one in /etc/wardmesh")
    get = add(config, "get", "a value of the configuration in force", verbs.config_get)
    get.add_argument("key", nargs="?", help="dotted path; all without it")
    output(get)

    node = group("node", "this host")
    init = add(node, "init", "make the key if there is none; print the public facts", verbs.node_init)
    init.add_argument("--dry-run", action="store_true", help="make nothing")
    init.add_argument("--hint", default="", help="an address that tells which device carries the fleet")
    output(init)

    fleet = group("fleet", "the fleet map")
    apply = add(fleet, "apply", "check, install and apply a fleet map", verbs.fleet_apply)
    apply.add_argument("file", type=Path)
    apply.add_argument("--dry-run", action="store_true", help="say what would change")
    output(apply)
    output(add(fleet, "show", "members of the map in force", verbs.fleet_show))
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 0 good, 1 a WardmeshError, 2 wrong usage."""
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None and os.path.basename(sys.argv[0]) == "wardmeshd":
        arguments = ["daemon", *arguments]
    args = parser().parse_args(arguments)
    try:
        return int(args.action(args))
    except WardmeshError as error:
        if getattr(args, "output", "text") == "json":
            print(json.dumps({"error": error.as_dict()}))
        print(f"wardmesh: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
