# SPDX-License-Identifier: Apache-2.0
"""Answers of GetFlows as lines, in the shapes of Hubble's own client: compact, dict, table, json.

Whatever came over the network is printed without its control characters: a name must not move a cursor.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wardmesh.model.identity import RESERVED
from wardmesh.observe.convert import time_of
from wardmesh.observe.jsonform import to_json
from wardmesh.observe.proto import enum_names
from wardmesh.observe.reasons import EVENT_TYPES, POLICY_MATCHES, TRACE_POINTS, drop_reason

OUTPUTS = ("compact", "dict", "json", "jsonpb", "table")
TIME_FORMATS = ("StampMilli", "RFC3339", "RFC3339Milli", "RFC3339Micro", "RFC3339Nano", "RFC1123Z")
_SEPARATOR = "-" * 12  # between the records of dict
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}
_FORWARDED, _DROPPED, _ERROR, _AUDIT, _REDIRECTED = 1, 2, 3, 4, 5
_VERDICT_COLOURS = {
    _FORWARDED: "green",
    _REDIRECTED: "green",
    _DROPPED: "red",
    _ERROR: "red",
    _AUDIT: "yellow",
}
_POLICY_WORDS = {
    _FORWARDED: "ALLOWED",
    _REDIRECTED: "ALLOWED",
    _DROPPED: "DENIED",
    _ERROR: "DENIED",
    _AUDIT: "AUDITED",
}
_TABLE_GATHERED = 200  # rows whose columns get one width
_NAMES_SHOWN = 50  # characters of node names in a line about nodes
NODE_WORDS = {
    1: "Receiving flows from {count} nodes: {names}",
    2: "{count} nodes are unavailable: {names}",
    3: "{count} nodes removed from cluster: {names}",
    4: 'Error "{message}" on {count} nodes: {names}',
}
_INFORMAL = (1, 3)  # said only to who wants to know everything


@dataclass(frozen=True)
class Style:
    """How flows are printed. names: names of hosts instead of addresses."""

    output: str = "compact"
    node: bool = False
    colour: bool = False
    names: bool = True
    policy_names: bool = False
    time_format: str = "StampMilli"
    debug: bool = False


def plain(text: str) -> str:
    """Without control characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def time_text(time_ns: int, form: str) -> str:
    """Unix nanoseconds in UTC, by the name of one of Go's layouts."""
    if not time_ns:
        return "N/A"
    seconds, nanos = divmod(time_ns, 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    clock = f"{moment:%H:%M:%S}"
    if form == "StampMilli":
        return f"{_MONTHS[moment.month - 1]} {moment.day:2d} {clock}.{nanos // 10**6:03d}"
    if form == "RFC1123Z":
        day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
        return f"{day}, {moment.day:02d} {month} {moment.year:04d} {clock} +0000"
    digits = {"RFC3339": 0, "RFC3339Milli": 3, "RFC3339Micro": 6, "RFC3339Nano": 9}[form]
    fraction = f".{nanos:09d}"[: digits + 1] if digits else ""
    if form == "RFC3339Nano":
        fraction = fraction.rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT}{clock}{fraction}Z"


class Printer:
    """Writes answers: flows to out, what is told about nodes and lost events to err."""

    def __init__(self, style: Style, out: Callable[[str], None], err: Callable[[str], None]) -> None:
        self._style = style
        self._out = out
        self._err = err
        self._lines = 0
        self._rows: list[tuple[str, ...]] = []
        self._widths: list[int] = []

    def write(self, answer: Any) -> None:
        """One GetFlowsResponse."""
        kind = answer.WhichOneof("response_types")
        if kind == "flow":
            self._flow(answer)
        elif kind == "lost_events":
            self._lost(answer)
        elif kind == "node_status":
            self._nodes(answer)

    def flush(self) -> None:
        """Print the rows that wait for their columns' widths."""
        rows, self._rows = self._rows, []
        for place in range(max(map(len, rows), default=0)):
            longest = max(len(row[place]) for row in rows)
            if place < len(self._widths):
                longest = max(longest, self._widths[place])
            self._widths[place : place + 1] = [longest]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, self._widths)]
            self._out("   ".join(cells).rstrip())

    # --- flows ---

    def _flow(self, answer: Any) -> None:
        style, flow = self._style, answer.flow
        if style.output in ("json", "jsonpb"):
            self._out(to_json(answer))
            return
        stamp = time_text(time_of(flow.time), style.time_format)
        source, destination = self._ends(flow)
        kind, verdict, summary = flow_type(flow), self._verdict(flow), plain(flow.Summary)
        node = plain(flow.node_name)
        if style.output == "compact":
            self._compact(flow, stamp, f" [{node}]" if style.node else "", (kind, verdict, summary))
        elif style.output == "dict":
            if self._lines:
                self._out(_SEPARATOR)
            fields = [("TIMESTAMP", stamp), *([("NODE", node)] if style.node else [])]
            fields += [("SOURCE", source), ("DESTINATION", destination), ("TYPE", kind)]
            fields += [("VERDICT", verdict), ("SUMMARY", summary)]
            self._out("\n".join(f"{name:>11}: {value}" for name, value in fields))
        else:
            head = ("TIMESTAMP", *(["NODE"] if style.node else []), "SOURCE", "DESTINATION", "TYPE")
            if not self._lines:
                self._rows.append((*head, "VERDICT", "SUMMARY"))
            nodes = [node] if style.node else []
            self._rows.append((stamp, *nodes, source, destination, kind, verdict, summary))
            if len(self._rows) >= _TABLE_GATHERED:
                self.flush()
        self._lines += 1

    def _compact(self, flow: Any, stamp: str, node: str, words: tuple[str, str, str]) -> None:
        left, right = self._ends(flow)
        left_id, right_id = self._identity(flow.source), self._identity(flow.destination)
        arrow = "->"
        if not flow.HasField("is_reply"):
            arrow = "<>"
        elif flow.is_reply.value:  # the opener of the connection stays on the left
            left, right, left_id, right_id, arrow = right, left, right_id, left_id, "<-"
        kind, verdict, summary = words
        self._out(f"{stamp}{node}: {left} {left_id} {arrow} {right} {right_id} {kind} {verdict} ({summary})")

    def _ends(self, flow: Any) -> tuple[str, str]:
        if not flow.HasField("IP"):
            ether = flow.ethernet
            return self._colour("cyan", plain(ether.source)), self._colour("cyan", plain(ether.destination))
        ports = _ports(flow.l4)
        sides = (
            (flow.IP.source, flow.source, flow.source_service, flow.source_names, ports[0]),
            (
                flow.IP.destination,
                flow.destination,
                flow.destination_service,
                flow.destination_names,
                ports[1],
            ),
        )
        left, right = (self._end(*side) for side in sides)
        return left, right

    def _end(self, address: str, party: Any, service: Any, names: Any, port: int) -> str:
        host = address
        if self._style.names:
            namespace = service.namespace or party.namespace
            if party.pod_name:
                host = f"{namespace}/{party.pod_name}" if namespace else party.pod_name
            elif service.name:
                host = f"{namespace}/{service.name}" if namespace else service.name
            elif names:
                host = ",".join(names)
        shown = self._colour("cyan", plain(host))
        if not port:
            return shown
        brackets = "[{}]:{}" if ":" in host else "{}:{}"
        return brackets.format(shown, self._colour("yellow", str(port)))

    def _identity(self, party: Any) -> str:
        number = party.identity
        name = "unknown" if not number else RESERVED.get(number)
        return self._colour("magenta", f"({name})" if name else f"(ID:{number})")

    def _verdict(self, flow: Any) -> str:
        verdict = flow.verdict
        word = enum_names("flow.Verdict").get(verdict, str(verdict))
        if flow.event_type.type == EVENT_TYPES["policy-verdict"]:
            word = _POLICY_WORDS.get(verdict, word)
            if self._style.policy_names:
                word += _policy_names(flow)
        return self._colour(_VERDICT_COLOURS.get(verdict, ""), word)

    def _colour(self, name: str, text: str) -> str:
        if not self._style.colour or not name or self._style.output == "table":
            return text
        return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m"

    # --- what is told beside flows ---

    def _lost(self, answer: Any) -> None:
        lost = answer.lost_events
        if self._style.output in ("json", "jsonpb"):
            self._out(to_json(answer))
            return
        source = enum_names("flow.LostEventSource").get(lost.source, str(lost.source))
        self.flush()
        self._err(self._colour("red", f"EVENTS LOST: {source} CPU({lost.cpu.value}) {lost.num_events_lost}"))

    def _nodes(self, answer: Any) -> None:
        status = answer.node_status
        if status.state_change in _INFORMAL and not self._style.debug:
            return
        if self._style.output in ("json", "jsonpb"):
            self._err(to_json(answer))
            return
        names, message = _cut(list(status.node_names)), plain(status.message)
        words = NODE_WORDS.get(status.state_change, "{count} nodes changed: {names}").format(
            count=len(status.node_names), names=names, message=message
        )
        stamp = time_text(time_of(answer.time), self._style.time_format)
        self._err(f"{stamp} [{plain(answer.node_name)}]: {words}")


def flow_type(flow: Any) -> str:
    """What happened, in Hubble's words: the trace point, the reason of a drop, how a policy matched."""
    kind, sub = flow.event_type.type, flow.event_type.sub_type
    if flow.HasField("l7"):
        record = flow.l7.WhichOneof("record") or "l7"
        word = enum_names("flow.L7FlowType").get(flow.l7.type, "").lower()
        source = f" {flow.l7.dns.observation_source}" if record == "dns" else ""
        return plain(f"{record}-{word}{source}")
    if kind == EVENT_TYPES["trace"]:
        return TRACE_POINTS.get(sub, str(sub))
    if kind == EVENT_TYPES["drop"]:
        return drop_reason(sub)
    if kind == EVENT_TYPES["policy-verdict"]:
        match = POLICY_MATCHES.get(flow.policy_match_type, "unknown")
        return f"policy-verdict:{match} {enum_names('flow.TrafficDirection').get(flow.traffic_direction, '')}"
    return "UNKNOWN"


def _ports(layer: Any) -> tuple[int, int]:
    name = layer.WhichOneof("protocol")
    if name not in ("TCP", "UDP", "SCTP"):
        return 0, 0
    part = getattr(layer, name)
    return part.source_port, part.destination_port


def _policy_names(flow: Any) -> str:
    found = [
        f"{policy.namespace}/{policy.name}" if policy.namespace else policy.name
        for field in ("egress_allowed_by", "ingress_allowed_by", "egress_denied_by", "ingress_denied_by")
        for policy in getattr(flow, field)
    ]
    return f" BY {', '.join(map(plain, found))}" if found else ""


def _cut(names: list[str]) -> str:
    """As many names as fit a line, one at least."""
    shown: list[str] = []
    length = 0
    for name in map(plain, names):
        length += len(name) + 2
        if shown and length > _NAMES_SHOWN:
            return f"{', '.join(shown)} (and {len(names) - len(shown)} more)"
        shown.append(name)
    return ", ".join(shown)
