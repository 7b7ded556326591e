# SPDX-License-Identifier: Apache-2.0
"""From the flags of `observe` to FlowFilter messages, as Hubble's client makes them.

A flag that speaks about either end (--ip, --pod) makes two filters, of which one must match: in the first the
source has the value, in the second the destination. --not puts the next flag alone on the blacklist.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wardmesh.model.errors import WardmeshError
from wardmesh.model.identity import RESERVED
from wardmesh.observe.flow import TcpFlag, Verdict
from wardmesh.observe.proto import enum_names, message
from wardmesh.observe.reasons import EVENT_TYPES, TRACE_POINTS

AUDIT_TYPE = "trace-audit"  # the seeds' word for policy verdicts that were only recorded
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_VERSIONS = {"4": 1, "v4": 1, "ipv4": 1, "ip4": 1, "6": 2, "v6": 2, "ipv6": 2, "ip6": 2}


class Given(NamedTuple):
    """A flag as it was given. name: without dashes; negated: --not stood before it."""

    name: str
    value: str
    negated: bool = False


def _words(value: str) -> list[str]:
    return [value]


def _identity(value: str) -> list[int]:
    numbers = {name: number for number, name in RESERVED.items()}
    if value not in numbers and not re.fullmatch(r"[0-9]{1,10}", value):
        raise WardmeshError(f"{value!r} is no identity", remedy=f"a number, or one of {', '.join(numbers)}")
    return [numbers[value] if value in numbers else int(value)]


def _verdict(value: str) -> list[int]:
    known = {verdict.name: verdict.value for verdict in Verdict if verdict.value}
    return [_one_of(known, word.upper(), "verdict") for word in value.split(",")]


def _one_of(known: dict[str, int], word: str, what: str) -> int:
    if word not in known:
        raise WardmeshError(f"{word!r} is no {what}", remedy=f"one of {', '.join(known)}")
    return known[word]


def _reason(value: str) -> list[int]:
    names = {name: number for number, name in enum_names("flow.DropReason").items()}
    return [_one_of(names, value.upper(), "drop reason")]


def _direction(value: str) -> list[int]:
    return [_one_of({"ingress": 1, "egress": 2}, value.lower(), "traffic direction")]


def _version(value: str) -> list[int]:
    return [_one_of(_VERSIONS, value.lower(), "version of IP")]


def _flags(value: str) -> list[Any]:
    made = message("flow.TCPFlags")()
    known = {str(flag.name): flag.value for flag in TcpFlag}
    for word in value.upper().split(","):
        _one_of(known, word, "TCP flag")
        setattr(made, word, True)
    return [made]


def _interface(value: str) -> list[Any]:
    return [message("flow.NetworkInterface")(name=value)]


def _workload(value: str) -> list[Any]:
    kind, slash, name = value.rpartition("/")
    return [message("flow.Workload")(name=name, kind=kind if slash else "")]


def _header(value: str) -> list[Any]:
    key, colon, text = value.partition(":")
    if not colon:
        raise WardmeshError(f"{value!r} is no HTTP header", remedy="write name:value")
    return [message("flow.HTTPHeader")(key=key, value=text)]


def _trace_id(value: str) -> list[int]:
    if not re.fullmatch(r"[1-9][0-9]{0,18}", value):
        raise WardmeshError(f"{value!r} is no IP trace id", remedy="a number above 0")
    return [int(value)]


def _event_type(value: str) -> list[Any]:
    word, colon, sub = value.partition(":")
    made = message("flow.EventTypeFilter")()
    if word.isdigit() and len(word) < 4:
        made.type = int(word)
    else:
        made.type = _one_of(EVENT_TYPES, word, "type of event")
    if colon:
        points = {name: number for number, name in TRACE_POINTS.items()}
        made.match_sub_type = True
        if made.type == EVENT_TYPES["trace"] and sub in points:
            made.sub_type = points[sub]
        elif re.fullmatch(r"[0-9]{1,5}", sub):
            made.sub_type = int(sub)
        else:
            raise WardmeshError(f"{sub!r} is no part of the type {word}", remedy=", ".join(points))
    return [made]


Parse = Callable[[str], "list[Any]"]
# Flags about an end: the field is source_X and destination_X; there is a --from-FLAG and a --to-FLAG of each.
SIDED: dict[str, tuple[str, Parse]] = {
    "ip": ("ip", _words),
    "pod": ("pod", _words),
    "fqdn": ("fqdn", _words),
    "label": ("label", _words),
    "service": ("service", _words),
    "workload": ("workload", _workload),
    "cluster": ("cluster_name", _words),
    "port": ("port", lambda value: value.split(",")),
    "identity": ("identity", _identity),
}
NAMESPACES = ("namespace", "all-namespaces")
PLAIN: dict[str, tuple[str, Parse]] = {
    "uuid": ("uuid", _words),
    "snat-ip": ("source_ip_xlated", _words),
    "ip-version": ("ip_version", _version),
    "verdict": ("verdict", _verdict),
    "drop-reason-desc": ("drop_reason_desc", _reason),
    "type": ("event_type", _event_type),
    "protocol": ("protocol", lambda value: value.split(",")),
    "http-status": ("http_status_code", _words),
    "http-method": ("http_method", _words),
    "http-path": ("http_path", _words),
    "http-url": ("http_url", _words),
    "http-header": ("http_header", _header),
    "trace-id": ("trace_id", _words),
    "ip-trace-id": ("ip_trace_id", _trace_id),
    "node-name": ("node_name", _words),
    "node-label": ("node_labels", _words),
    "tcp-flags": ("tcp_flags", _flags),
    "traffic-direction": ("traffic_direction", _direction),
    "interface": ("interface", _interface),
    "encrypted": ("encrypted", lambda _value: [True]),
    "unencrypted": ("encrypted", lambda _value: [False]),
}
# Flags that speak about the same thing in two ways.
_EXCLUSIVE = (*SIDED, "namespace")


@dataclass
class _Side:
    """A whitelist or blacklist while its flags come in."""

    left: Any = None
    right: Any = None
    namespaces: dict[str, list[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def add(self, given: Given) -> None:
        self.seen.add(given.name)
        self._check_conflicts()
        if self.left is None:
            self.left, self.right = message("flow.FlowFilter")(), message("flow.FlowFilter")()
        direction, name = _split(given.name)
        if name in NAMESPACES:
            self.namespaces.setdefault(direction, []).append(given.value if name == "namespace" else "")
        elif name == "type" and given.value == AUDIT_TYPE:
            self._audit()
        elif name == "cel-expression":
            for made in (self.left, self.right):
                made.experimental.cel_expression.append(given.value)
        elif name in SIDED:
            suffix, parse = SIDED[name]
            values = parse(given.value)
            if direction != "to":
                getattr(self.left, f"source_{suffix}").extend(values)
            if direction == "from":
                getattr(self.right, f"source_{suffix}").extend(values)
            if direction != "from":
                getattr(self.right, f"destination_{suffix}").extend(values)
            if direction == "to":
                getattr(self.left, f"destination_{suffix}").extend(values)
        else:
            suffix, parse = PLAIN[name]
            values = parse(given.value)
            for made in (self.left, self.right):
                getattr(made, suffix).extend(values)

    def _audit(self) -> None:
        for made in (self.left, self.right):
            made.event_type.add(type=EVENT_TYPES["policy-verdict"])
            made.verdict.append(Verdict.AUDIT.value)

    def _check_conflicts(self) -> None:
        for name in _EXCLUSIVE:
            sided = {f"from-{name}", f"to-{name}"} & self.seen
            if name in self.seen and sided:
                raise WardmeshError(f"filters --{name} and --{min(sided)} cannot be combined")
        if {"encrypted", "unencrypted"} <= self.seen:
            raise WardmeshError("filters --encrypted and --unencrypted cannot be combined")

    def filters(self) -> list[Any]:
        if self.left is None:
            return []
        for direction, names in self.namespaces.items():
            if direction != "to":
                _in_namespaces(self.left, "source", names)
            if direction == "from":
                _in_namespaces(self.right, "source", names)
            if direction != "from":
                _in_namespaces(self.right, "destination", names)
            if direction == "to":
                _in_namespaces(self.left, "destination", names)
        if self.left == self.right:
            return [self.left]
        return [self.left, self.right]


def _in_namespaces(made: Any, end: str, names: list[str]) -> None:
    pods, services = getattr(made, f"{end}_pod"), getattr(made, f"{end}_service")
    if not pods and not services:
        pods.append("")
    for values in (pods, services):
        found = [
            v if "/" in v else f"{name}/{v}" for v in values for name in (names if "/" not in v else [""])
        ]
        del values[:]
        values.extend(found)


def _split(name: str) -> tuple[str, str]:
    """from-ip to from and ip; the names that merely begin so stay whole."""
    direction, dash, rest = name.partition("-")
    if dash and direction in ("from", "to") and (rest in SIDED or rest in NAMESPACES):
        return direction, rest
    return "", name


def build_filters(flags: Iterable[Given]) -> tuple[list[Any], list[Any]]:
    """Whitelist and blacklist; WardmeshError names the flag that cannot be read."""
    sides = {False: _Side(), True: _Side()}
    for given in flags:
        try:
            sides[given.negated].add(given)
        except WardmeshError as error:
            where = error.where or f"--{given.name}"
            raise WardmeshError(error.what, where=where, why=error.why, remedy=error.remedy) from error
    return sides[False].filters(), sides[True].filters()


def parse_time(text: str, flag: str, now: float | None = None) -> int:
    """5m, 1h30m, 2024-05-01, RFC 3339, or unix seconds, to unix nanoseconds. A duration is counted back."""
    now = time.time() if now is None else now
    if _DURATION.fullmatch(text):
        parts = re.findall(r"([0-9.]+)(ms|s|m|h|d)", text)
        return int((now - sum(float(number) * _UNITS[unit] for number, unit in parts)) * 10**9)
    if re.fullmatch(r"[0-9]{9,11}(\.[0-9]+)?", text):
        return int(float(text) * 10**9)
    try:
        moment = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", _six_digits(text)))
    except ValueError as error:
        raise WardmeshError(
            f"{text!r} is no time", where=f"--{flag}", remedy="write 5m, 2024-05-01 or 2024-05-01T12:00:00Z"
        ) from error
    if moment.tzinfo is None:
        moment = moment.astimezone()  # as the operator's clock shows it
    return int(moment.timestamp() * 10**6) * 1000


def _six_digits(text: str) -> str:
    """Fractions of a second as Python 3.9 reads them: six digits."""
    return re.sub(r"\.([0-9]+)", lambda found: "." + found[1][:6].ljust(6, "0"), text)
