# SPDX-License-Identifier: Apache-2.0
"""Arguments of the verbs that look at flows. Names of flags are those of Hubble's client."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

Groups: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Add = Callable[..., argparse.ArgumentParser]

OUTPUTS = ("compact", "dict", "json", "jsonpb", "table")
TIME_FORMATS = ("StampMilli", "RFC3339", "RFC3339Milli", "RFC3339Micro", "RFC3339Nano", "RFC1123Z")
_SIDED = {
    "ip": ("ADDRESS", "address or CIDR"),
    "pod": ("NAME", "name of a host, or the beginning of one"),
    "fqdn": ("NAME", "domain name, * is any part of it"),
    "label": ("SELECTOR", "label selector: app=web, 'env in (a, b)', reserved:world"),
    "service": ("NAME", "service (hosts have none)"),
    "workload": ("NAME", "workload (hosts have none)"),
    "cluster": ("NAME", "cluster"),
    "port": ("PORT", "port"),
    "identity": ("NUMBER", "identity, or world, host, remote-node"),
    "namespace": ("NAME", "namespace (hosts are in none)"),
}
_PLAIN = {
    "verdict": ("WORD", "FORWARDED, DROPPED, AUDIT, ERROR …"),
    "drop-reason-desc": ("NAME", "reason of a drop, like POLICY_DENIED"),
    "protocol": ("NAME", "tcp, udp, sctp, icmp, icmpv4, icmpv6"),
    "tcp-flags": ("FLAGS", "flags that are all set, like SYN,ACK"),
    "traffic-direction": ("WORD", "ingress or egress"),
    "interface": ("NAME", "network interface"),
    "node-name": ("PATTERN", "member that saw it: [cluster/]node, with *"),
    "node-label": ("SELECTOR", "labels of that member"),
    "ip-version": ("VERSION", "4 or 6"),
    "uuid": ("UUID", "one flow"),
    "snat-ip": ("ADDRESS", "translated address (hosts have none)"),
    "trace-id": ("ID", "trace (hosts have none)"),
    "ip-trace-id": ("ID", "trace in an IP option (hosts have none)"),
    "http-status": ("CODE", "HTTP (hosts have none)"),
    "http-method": ("WORD", "HTTP (hosts have none)"),
    "http-path": ("REGEX", "HTTP (hosts have none)"),
    "http-url": ("REGEX", "HTTP (hosts have none)"),
    "http-header": ("NAME:VALUE", "HTTP (hosts have none)"),
    "cel-expression": ("TEXT", "CEL, for servers that know it"),
}
_TYPES = "drop, policy-verdict, trace[:to-network …], l7 …; trace-audit: what policy would have dropped"


class FilterAction(argparse.Action):
    """Keeps filters in their order: --not speaks about the next one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002  argparse gives it
    ) -> None:
        """Remember one flag."""
        given = list(getattr(namespace, "filters", None) or [])
        pending = bool(getattr(namespace, "negate", False))
        if self.dest == "negate":
            if pending:
                parser.error("two --not without a filter between them")
            namespace.negate = True
            return
        namespace.negate = False
        text = str(self.const if self.const is not None else values)
        given.append((self.dest.replace("_", "-"), text, pending))
        namespace.filters = given


def add_all(groups: Groups, policy: Groups, add: Add) -> None:
    """Every verb of observing; policy: the group of policy verbs."""
    _add_observe(add(groups, "observe", "observe:observe", "flows of this host, or of the fleet", json=False))
    top = add(groups, "top", "observe_views:top", "who talks most, what is dropped, per peer")
    top.add_argument("-n", dest="count", type=int, default=10, metavar="NUMBER", help="lines of each table")
    add_input(top)
    made = groups.add_parser("flows", help="views of flows", description="views of flows")
    flows = made.add_subparsers(required=True, metavar="VERB")
    summary = add(flows, "summary", "observe_views:summary", "who talks to whom on what", json=False)
    summary.add_argument(
        "-o", "--output", choices=("table", "json", "dot"), default="table", help="form; dot is for Graphviz"
    )
    add_input(summary)
    suggest = add(
        policy, "suggest", "observe_views:suggest", "the smallest policies that admit what was audited"
    )
    suggest.add_argument(
        "--fleet", dest="map", type=Path, metavar="FILE", help="the fleet map; without it this host's"
    )
    suggest.add_argument("--verdict", action="append", default=[], help="take these flows (AUDIT)")
    add_input(suggest, fleet=False)
    observer = add(groups, "observer", "observe_service:observer", "serve flows (its unit does)", json=False)
    observer.add_argument(
        "--replay", type=Path, metavar="FILE", help="serve the flows of a file instead of the kernel's"
    )
    relay = add(groups, "relay", "observe_service:relay", "serve the whole fleet's flows", json=False)
    relay.add_argument("--listen", metavar="HOST:PORT", help="instead of hubble.relay.listenAddress")
    relay.add_argument(
        "--peers", metavar="SERVER", help="learn the members from this server instead of the fleet map"
    )
    ui = add(groups, "ui", "ui:ui", "a page with the service map and the flows of the fleet", json=False)
    ui.add_argument("--listen", default="", metavar="HOST:PORT", help="instead of hubble.ui.listenAddress")
    _add_server(ui, "; without it the relay on this host")


def add_input(made: argparse.ArgumentParser, *, fleet: bool = True) -> None:
    """Where flows come from, and which part of them."""
    _add_server(made)
    if fleet:
        made.add_argument("--fleet", action="store_true", help="ask the relay on this host: 127.0.0.1:4245")
    else:
        made.add_argument(
            "--relay",
            dest="fleet",
            action="store_true",
            help="ask the relay on this host: 127.0.0.1:4245",
        )
    made.add_argument("--input-file", metavar="FILE", help="read flows from a file (- is standard input)")
    made.add_argument("--last", type=_count, metavar="NUMBER", help="the last so many flows")
    made.add_argument("--first", type=_count, metavar="NUMBER", help="the first so many flows")
    made.add_argument("--all", action="store_true", help="every flow that is kept")
    made.add_argument("--since", metavar="TIME", help="from then on: 5m, 2024-05-01T12:00:00Z")
    made.add_argument("--until", metavar="TIME", help="until then")


def _add_server(made: argparse.ArgumentParser, default: str = "") -> None:
    text = f"unix://PATH, HOST:PORT or tls://HOST:PORT{default}"
    made.add_argument("--server", metavar="SERVER", help=text)
    made.add_argument("--tls", action="store_true", help="connect by TLS")
    made.add_argument(
        "--tls-ca-cert-files",
        dest="tls_ca",
        type=Path,
        metavar="FILE",
        help="who signs the server's certificate",
    )
    made.add_argument(
        "--tls-client-cert-file", dest="tls_cert", type=Path, metavar="FILE", help="own certificate"
    )
    made.add_argument("--tls-client-key-file", dest="tls_key", type=Path, metavar="FILE", help="its key")
    made.add_argument(
        "--tls-server-name", default="", metavar="NAME", help="name in the server's certificate"
    )


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number < 1 << 64:
        raise argparse.ArgumentTypeError("a number above 0")
    return number


def _add_observe(made: argparse.ArgumentParser) -> None:
    made.add_argument("kind", nargs="?", choices=("flows",), default="flows", help="what to observe")
    made.add_argument("-o", "--output", choices=OUTPUTS, default="compact", help="form of a line")
    made.add_argument(
        "-j", "--json", dest="output", action="store_const", const="json", help="same as -o json"
    )
    made.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    add_input(made)
    made.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colours")
    made.add_argument("--time-format", choices=TIME_FORMATS, default="StampMilli", help="form of times")
    made.add_argument("--print-node-name", action="store_true", help="the member that saw it")
    made.add_argument("--print-policy-names", action="store_true", help="policies behind a verdict")
    made.add_argument("--print-raw-filters", action="store_true", help="print the filters, ask nobody")
    made.add_argument("--numeric", action="store_true", help="addresses instead of names")
    made.add_argument("-s", "--silent-errors", action="store_true", help="say nothing about members")
    made.add_argument("--debug", action="store_true", help="say everything about members")
    made.add_argument("--field-mask", metavar="FIELDS", help="ask for these fields only, comma separated")
    made.add_argument("--allowlist", action="append", default=[], metavar="JSON", help="a FlowFilter")
    made.add_argument("--denylist", action="append", default=[], metavar="JSON", help="a FlowFilter")
    made.set_defaults(filters=[], negate=False)
    _add_filters(made.add_argument_group("filters"))


def _add_filters(group: Any) -> None:
    group.add_argument("--not", dest="negate", nargs=0, action=FilterAction, help="the next filter shuts out")
    for name, (metavar, text) in _SIDED.items():
        short = {"label": ("-l",), "namespace": ("-n",)}.get(name, ())
        group.add_argument(*short, f"--{name}", metavar=metavar, action=FilterAction, help=f"either: {text}")
        group.add_argument(f"--from-{name}", metavar=metavar, action=FilterAction, help=argparse.SUPPRESS)
        group.add_argument(f"--to-{name}", metavar=metavar, action=FilterAction, help=argparse.SUPPRESS)
    for word in ("", "from-", "to-"):
        short = () if word else ("-A",)
        group.add_argument(
            *short,
            f"--{word}all-namespaces",
            nargs=0,
            action=FilterAction,
            const="",
            help="every host" if not word else argparse.SUPPRESS,
        )
    group.add_argument("-t", "--type", metavar="TYPE[:SUB]", action=FilterAction, help=_TYPES)
    for name, (metavar, text) in _PLAIN.items():
        group.add_argument(f"--{name}", metavar=metavar, action=FilterAction, help=text)
    for name, text in (("encrypted", "through the tunnel"), ("unencrypted", "outside the tunnel")):
        group.add_argument(f"--{name}", nargs=0, action=FilterAction, const="true", help=text)
    for number in ("4", "6"):
        group.add_argument(
            f"-{number}", f"--ipv{number}", dest="ip_version", nargs=0, action=FilterAction, const=number,
            help=f"IPv{number}",
        )  # fmt: skip
