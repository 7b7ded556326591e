# SPDX-License-Identifier: Apache-2.0
"""The table of verbs: words, arguments, and the function that runs each."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from wardmesh.cli import observe_verbs

if TYPE_CHECKING:
    from typing import TypeAlias

Groups: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Action = Callable[[argparse.Namespace], int]


def action_of(args: argparse.Namespace) -> Action:
    """The function of a parsed command line, its module imported now."""
    module, function = str(args.action).split(":")
    return cast("Action", getattr(importlib.import_module(f"wardmesh.cli.{module}"), function))


def _add(groups: Groups, name: str, action: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
    made = groups.add_parser(name, help=text, description=text)
    made.set_defaults(action=action)
    if json:
        made.add_argument(
            "-o", "--output", choices=("text", "json"), default="text", help="form of the answer"
        )
        made.add_argument("--json", dest="output", action="store_const", const="json", help="same as -o json")
    return made


def _group(groups: Groups, name: str, text: str) -> Groups:
    made = groups.add_parser(name, help=text, description=text)
    return made.add_subparsers(required=True, metavar="VERB")


def _dry_run(made: argparse.ArgumentParser) -> None:
    made.add_argument("--dry-run", action="store_true", help="change nothing, tell what would change")


def add_all(groups: Groups) -> None:
    """Every verb."""
    _add_status(groups)
    _add_encryption(_group(groups, "encryption", "encryption between members"))
    _add_fleet(_group(groups, "fleet", "the fleet map"))
    _add_config(_group(groups, "config", "the configuration"))
    policy = _group(groups, "policy", "policies")
    _add_policy(policy)
    observe_verbs.add_all(groups, policy, _add)
    _add_labels(groups)
    _add_store(_group(groups, "kvstore", "the fleet's etcd"))
    text = "connection, members, identities and addresses of the other clusters; 1 when one is not ready"
    _add(_group(groups, "clustermesh", "several clusters"), "status", "state:clustermesh_status", text)
    _add_kernel(_group(groups, "bpf", "what lies in the kernel"))
    _add_health(groups)
    _add_host(groups)


def _add_status(groups: Groups) -> None:
    status = _add(groups, "status", "state:status", "state of the agent, its peers and the guard")
    status.add_argument(
        "--wait",
        nargs="?",
        type=float,
        const=60.0,
        default=None,
        metavar="SECONDS",
        help="wait until every tunnel is up (60 s without a number); "
        "when time is up, exit status 1 and the names of who is missing",
    )
    status.add_argument("--all-health", action="store_true", help="tunnel, endpoint, handshake of each node")
    status.add_argument("--verbose", action="store_true", help="counters of the guard, version, public key")
    _add(groups, "version", "state:version", "version of this file")


def _add_encryption(groups: Groups) -> None:
    _add(groups, "status", "state:encryption_status", "handshakes by peer")
    _add(groups, "key", "state:encryption_key", "the public key of this host")
    rotate = _add(
        groups, "rotate", "rotate:rotate", "where this host stands in a rotation of keys, or its part of one"
    )
    rotate.add_argument(
        "--phase",
        choices=("stage", "activate", "alone"),
        help="stage makes the next key, which the fleet map has to name before anything changes; activate "
        "sends through the second tunnel from now on; the other phases are the fleet's: see rotate_keys.yml. "
        "alone lets this host change its key by itself now, as encryption.keyRotation does when it is time",
    )
    _dry_run(rotate)
    mode = _add(groups, "mode", "state:encryption_mode", "print or set the mode in force")
    mode.add_argument(
        "mode",
        nargs="?",
        choices=("prefer", "strict"),
        help="prefer encrypts where a tunnel is up; strict seals every member whose tunnel is up: "
        "from then on only the tunnel carries traffic to it",
    )
    mode.add_argument("--all", action="store_true", help="strict: seal members too whose tunnel is not up")
    _dry_run(mode)


def _add_fleet(groups: Groups) -> None:
    apply = _add(groups, "apply", "fleet:fleet_apply", "check, install and apply a fleet map")
    apply.add_argument("file", type=Path, help="the map, as the controller compiled it")
    _dry_run(apply)
    _add(groups, "show", "fleet:fleet_show", "members of the map in force")
    text = "what this host enforces, read from the kernel, and what its files say it should"
    _add(groups, "digest", "drift:digest", text)
    text = "ask the other members for theirs and name who differs, and in what; 1 where anybody does"
    drift = _add(groups, "drift", "drift:drift", text)
    drift.add_argument("member", nargs="*", help="whom to ask; all without")
    drift.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help='what all should have, as JSON like {"map": {"digest": "…"}}; without it, what this host should',
    )
    drift.add_argument("--store", action="store_true", help="read what the hosts wrote into the store")


def _add_config(groups: Groups) -> None:
    validate = _add(groups, "validate", "local:config_validate", "check a configuration file")
    validate.add_argument("file", nargs="?", type=Path, help="without it /etc/wardmesh/config.yaml")
    get = _add(groups, "get", "local:config_get", "print values of the configuration, defaults included")
    get.add_argument("key", nargs="?", help="dotted path, or the beginning of one; all without it")


def _files(made: argparse.ArgumentParser, *, fleet: bool) -> None:
    made.add_argument("file", nargs="+", type=Path, help="policy files, or folders of them")
    made.add_argument(
        "--fleet",
        type=Path,
        required=fleet,
        metavar="FILE",
        help="the fleet map (wardmesh-fleet.json), or a YAML file with nodes: {name: {ip, labels, ports}}",
    )


def _add_policy(groups: Groups) -> None:
    validate = _add(groups, "validate", "policy:validate", "check policy files as a whole set")
    validate.add_argument("file", nargs="+", type=Path, help="policy files, or folders of them")
    test = _add(groups, "test", "policy:test", "check assertions, or tables of verdicts; 1 on any difference")
    test.add_argument("file", nargs="*", type=Path, help="policy files, or folders of them")
    test.add_argument("--fleet", type=Path, metavar="FILE", help="the fleet map, or a YAML file with nodes")
    test.add_argument(
        "--tests",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="assertions: tests: [{from, to, port, expect}]",
    )
    test.add_argument(
        "--cases",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a table of verdicts (JSON lines)",
    )
    trace = _add(groups, "trace", "policy:trace", "which rule of which file decides about a flow")
    _files(trace, fleet=True)
    trace.add_argument("--from", dest="source", required=True, metavar="WHO", help="a member or an address")
    trace.add_argument("--to", dest="target", required=True, metavar="WHO", help="a member or an address")
    trace.add_argument("--port", required=True, metavar="PORT", help="5432/tcp, 53/udp, 8/icmp (the type)")
    diff = _add(groups, "diff", "policy:diff", "which pairs and ports a new set opens or closes")
    diff.add_argument("old", type=Path, help="file or folder of the old set")
    diff.add_argument("new", type=Path, help="file or folder of the new set")
    diff.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="the fleet map, or nodes")
    _add_enforce(groups)
    _files(_add(groups, "selectors", "policy:selectors", "whom each selector selects"), fleet=True)


def _add_enforce(groups: Groups) -> None:
    apply = _add(groups, "apply", "enforce:apply", "check the whole set with these files, put it in force")
    apply.add_argument("file", nargs="+", type=Path, help="policy files, or folders of them")
    apply.add_argument("--replace", action="store_true", help="these files are the whole set")
    apply.add_argument(
        "--confirm-within",
        type=float,
        metavar="SECONDS",
        help="on trial: the set before comes back unless it is confirmed in time",
    )
    _dry_run(apply)
    _add(groups, "confirm", "enforce:confirm", "keep the policies that are on trial")
    text = (
        "the policies in force, their revision, and how many new flows each rule allowed or denied since the "
        "revision began (a change of policies, members or settings begins one, and so does the agent's start)"
    )
    _add(groups, "get", "enforce:get", text)
    delete = _add(groups, "delete", "enforce:delete", "remove policies by name or file")
    delete.add_argument("name", nargs="*", help="name of a policy, or of its file")
    delete.add_argument("--all", action="store_true", help="remove every policy")
    _dry_run(delete)


def _add_labels(groups: Groups) -> None:
    endpoint = _group(groups, "endpoint", "the endpoint of this host")
    _add(endpoint, "list", "labels:endpoint_list", "enforcement, identity, labels and addresses of this host")
    identity = _group(groups, "identity", "identities of the fleet")
    _add(identity, "list", "labels:identity_list", "every identity and its labels")
    get = _add(identity, "get", "labels:identity_get", "one identity")
    get.add_argument("id", type=int, help="its number")
    labels = _group(groups, "labels", "labels of this host")
    _add(labels, "list", "labels:listing", "labels in force, and those that the fleet does not know yet")
    for verb, text in (("add", "give this host labels"), ("remove", "take labels away that were added here")):
        made = _add(labels, verb, f"labels:{verb}", text)
        made.add_argument("label", nargs="+", help="KEY=VALUE" if verb == "add" else "KEY")
        _dry_run(made)


def _add_store(groups: Groups) -> None:
    text = "a user for each member, who may write its own record; authentication on"
    users = _add(groups, "users", "kvstore:users", text)
    users.add_argument("map", type=Path, help="the fleet map")
    users.add_argument("--endpoint", required=True, metavar="URL", help="a server, as https://HOST:PORT")
    for name, what in (
        ("ca", "CA of etcd's certificates"),
        ("cert", "root's certificate"),
        ("key", "its key"),
    ):
        users.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=what)
    users.add_argument(
        "--also", action="append", default=[], metavar="NAME", help="a member that no map has; may repeat"
    )
    text = "a member that runs the store, and writes what other clusters read; may repeat"
    users.add_argument("--publisher", action="append", default=[], metavar="NAME", help=text)
    _dry_run(users)


def _add_kernel(groups: Groups) -> None:
    judged = (
        "verdicts by peers and ports, and how many new flows each decided; ports that no rule tells apart "
        "are counted together, and each of their lines shows the sum"
    )
    for name, text in (
        ("ipcache", "who an address is, as the guard sees it"),
        ("policy", judged),
        ("ct", "connections"),
        ("maps", "entries of every map, and how many fit"),
    ):
        _add(_group(groups, name, text), "list", f"kernel:{name}_list", text)


def _add_health(groups: Groups) -> None:
    text = "check the peers and answer their checks (wardmesh-health.service does)"
    _add(groups, "health", "health_service:health", text, json=False)
    _add_probes(groups)
    metrics = _add(
        _group(groups, "metrics", "metrics of this host"),
        "list",
        "metrics:listing",
        "metrics of this host with their labels and values",
    )
    text = "check this host: WireGuard, ports, handshakes, MTU, clocks, maps, files; 1 with a problem"
    _add(groups, "doctor", "doctor:doctor", text)
    text = "one archive of this host's state without secrets, for whoever is to help"
    dump = _add(groups, "sysdump", "sysdump:sysdump", text, json=False)
    dump.add_argument(
        "--output", dest="file", type=Path, metavar="FILE", help="the archive; else a name with host and time"
    )
    dump.add_argument(
        "--json", dest="output", action="store_const", const="json", default="text", help="answer in JSON"
    )
    metrics.add_argument(
        "-p", "--match-pattern", metavar="REGEX", help="only metrics whose name matches the expression"
    )


def _add_probes(groups: Groups) -> None:
    text = "path to a member (tunnel or not), path MTU and round trips"
    ping = _add(groups, "ping", "probe:ping", text)
    ping.add_argument("member", help="its name, or one of its addresses")
    ping.add_argument("-c", "--count", type=int, default=5, metavar="N", help="echoes to send, 1 to 1000")
    text = "ping, large packets, TCP, encryption and policy between this host and others; 1 on any difference"
    test = _add(_group(groups, "connectivity", "what passes between members"), "test", "probe:test", text)
    test.add_argument(
        "member", nargs="*", help="whom to test; else all, or in a fleet of more than 30 a sample"
    )
    test.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="PORT",
        help="ports as 5432/tcp; policy decides what is expected of them (4240/tcp without any)",
    )
    test.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="whom to test and what is expected, as JSON of the controller",
    )


def _add_host(groups: Groups) -> None:
    node = _group(groups, "node", "this host as a member")
    init = _add(node, "init", "local:node_init", "make the key where there is none; print the public facts")
    init.add_argument("--hint", default="", metavar="ADDRESS", help="an address on the device of the fleet")
    _dry_run(init)
    text = "make the key of this host's certificate; print a request and what is installed"
    _dry_run(_add(node, "certificate-request", "certificates:certificate_request", text))
    text = "check the certificate that the rollout brings, and install it"
    install = _add(node, "certificate-install", "certificates:certificate_install", text)
    install.add_argument(
        "certificate", type=Path, help="the certificate (PEM), then those between it and its CA"
    )
    install.add_argument("ca", type=Path, help="every CA that is to be believed (PEM)")
    _dry_run(install)
    clean = _add(groups, "cleanup", "local:cleanup", "remove everything of wardmesh from the kernel")
    _dry_run(clean)
    _add(groups, "daemon", "local:daemon", "run the agent (wardmesh.service does)", json=False)
    text = "guard from the last good state, before the network is up (wardmesh-boot.service does)"
    _add(groups, "boot", "local:boot", text, json=False)
