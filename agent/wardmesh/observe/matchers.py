# SPDX-License-Identifier: Apache-2.0
"""What each field of a FlowFilter asks of a flow: from the values of a field to a function of a Flow."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address
from wardmesh.observe import labelfilter
from wardmesh.observe.flow import ICMP, ICMP6, SCTP, TCP, UDP, Direction, Flow, Party, TcpFlag
from wardmesh.observe.wildcards import node_pattern, wildcard

Test = Callable[[Flow], bool]
MOST_VALUES = 4096  # values of one field
_LAST_PORT = 65535
# Namespaces in which a host is looked for: it has none, and clients fill in "default" where nobody named one.
_HOST_NAMESPACES = ("", "default")
_L4 = {
    "tcp": (TCP,),
    "udp": (UDP,),
    "sctp": (SCTP,),
    "icmp": (ICMP, ICMP6),
    "icmpv4": (ICMP,),
    "icmpv6": (ICMP6,),
    "vrrp": (112,),
    "igmp": (2,),
}
_L7 = ("dns", "http", "kafka")
_WITH_PORTS = (TCP, UDP, SCTP)
_HTTP_STATUS = re.compile(r"^[1-5](\+|[0-9]\+|[0-9]{2})$")
_LONGEST_REGEX = 1024  # characters


def _nothing(_flow: Flow) -> bool:
    return False


def everything(_flow: Flow) -> bool:
    return True


# --- ends: an accessor for the source or the destination ---


def _party(source: bool) -> Callable[[Flow], Party]:
    return (lambda flow: flow.source) if source else (lambda flow: flow.destination)


def _address(source: bool) -> Callable[[Flow], Address]:
    return (lambda flow: flow.event.source) if source else (lambda flow: flow.event.destination)


def _ips(source: bool) -> Callable[[list[str]], Test]:
    address = _address(source)

    def make(values: list[str]) -> Test:
        single, networks = _networks(values)
        if not networks:
            return lambda flow: address(flow) in single

        def test(flow: Flow) -> bool:
            own = address(flow)
            return own in single or any(own in network for network in networks)

        return test

    return make


def _networks(values: list[str]) -> tuple[set[Address], list[Any]]:
    single: set[Address] = set()
    networks = []
    for value in values:
        try:
            if "/" in value:
                networks.append(ipaddress.ip_network(value, strict=False))
            else:
                single.add(ipaddress.ip_address(value))
        except ValueError as error:
            raise WardmeshError(
                f"{value!r} is no address and no CIDR", why=str(error), remedy="write 10.0.0.1 or 10.0.0.0/24"
            ) from error
    return single, networks


def _pods(source: bool) -> Callable[[list[str]], Test]:
    """[namespace/][name prefix]: upstream's form. A host is in no namespace."""
    party = _party(source)

    def make(values: list[str]) -> Test:
        prefixes = tuple(_name_prefix(value) for value in values)
        wanted = tuple(prefix for namespace, prefix in prefixes if namespace in _HOST_NAMESPACES)

        def test(flow: Flow) -> bool:
            name = party(flow).name
            return bool(name) and name.startswith(wanted)

        return test if wanted else _nothing

    return make


def _name_prefix(value: str) -> tuple[str, str]:
    namespace, slash, prefix = value.rpartition("/")
    if not value or "/" in namespace:
        raise WardmeshError(f"{value!r} is no name of a host", remedy="write a name, or the beginning of one")
    return (namespace, prefix) if slash else ("", value)


def _services(values: list[str]) -> Test:
    for value in values:
        _name_prefix(value)
    return _nothing


def _labels(source: bool) -> Callable[[list[str]], Test]:
    party = _party(source)
    return lambda values: _by_labels(values, lambda flow: party(flow).labels)


def _by_labels(values: list[str], labels: Callable[[Flow], tuple[str, ...]]) -> Test:
    selectors = [labelfilter.parse(value) for value in values]
    answers: dict[tuple[str, ...], bool] = {}  # a fleet has few label sets, and many flows

    def test(flow: Flow) -> bool:
        own = labels(flow)
        answer = answers.get(own)
        if answer is None:
            if len(answers) >= MOST_VALUES:
                answers.clear()
            indexed = labelfilter.index(own)
            answer = answers[own] = any(selector(indexed) for selector in selectors)
        return answer

    return test


def _domain_names(source: bool) -> Callable[[list[str]], Test]:
    party = _party(source)

    def make(values: list[str]) -> Test:
        tests = [wildcard(value) for value in values]
        return lambda flow: any(test(name.lower()) for name in party(flow).domain_names for test in tests)

    return make


def _node_names(values: list[str]) -> Test:
    """[cluster/][node], with * in both; an empty part is any."""
    tests = [node_pattern(value) for value in values]
    answers: dict[str, bool] = {}

    def test(flow: Flow) -> bool:
        name = flow.node_name
        if name not in answers:
            if len(answers) >= MOST_VALUES:
                answers.clear()
            answers[name] = bool(name) and any(known(name) for known in tests)
        return answers[name]

    return test


def _identities(source: bool) -> Callable[[list[int]], Test]:
    party = _party(source)

    def make(values: list[int]) -> Test:
        wanted = frozenset(values)
        return lambda flow: party(flow).identity in wanted

    return make


def _clusters(source: bool) -> Callable[[list[str]], Test]:
    party = _party(source)

    def make(values: list[str]) -> Test:
        wanted = frozenset(values)
        return lambda flow: party(flow).cluster in wanted

    return make


def _ports(source: bool) -> Callable[[list[str]], Test]:
    def make(values: list[str]) -> Test:
        wanted = frozenset(_port(value) for value in values)
        if source:
            return lambda flow: flow.event.protocol in _WITH_PORTS and flow.event.source_port in wanted
        return lambda flow: flow.event.protocol in _WITH_PORTS and flow.event.destination_port in wanted

    return make


def _port(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or int(value) > _LAST_PORT:
        raise WardmeshError(f"{value!r} is no port", remedy="a number up to 65535")
    return int(value)


# --- the flow itself ---


def _verdicts(values: list[int]) -> Test:
    wanted = frozenset(values)
    return lambda flow: flow.event.verdict in wanted


def _reasons(values: list[int]) -> Test:
    wanted = frozenset(values)
    return lambda flow: flow.event.drop_reason in wanted


def _directions(values: list[int]) -> Test:
    wanted = frozenset(Direction(value) for value in values if value in Direction.__members__.values())
    return lambda flow: flow.event.direction in wanted


def _interfaces(values: list[Any]) -> Test:
    wanted = [(int(value.index), str(value.name)) for value in values]
    return lambda flow: any(
        index in (0, flow.event.interface_index) and name in ("", flow.event.interface)
        for index, name in wanted
    )


def _event_types(values: list[Any]) -> Test:
    wanted = [(value.type, value.sub_type if value.match_sub_type else None) for value in values]
    return lambda flow: any(
        kind in (0, flow.event.kind) and sub in (None, flow.event.sub_type) for kind, sub in wanted
    )


def _protocols(values: list[str]) -> Test:
    numbers: set[int] = set()
    for value in values:
        word = value.lower()
        if word not in _L4 and word not in _L7:
            raise WardmeshError(f"unknown protocol {value!r}", remedy=f"one of {', '.join((*_L4, *_L7))}")
        numbers.update(_L4.get(word, ()))
    return lambda flow: flow.event.protocol in numbers


def _replies(values: list[bool]) -> Test:
    wanted = frozenset(values)
    return lambda flow: flow.event.is_reply in wanted


def _tcp_flags(values: list[Any]) -> Test:
    masks = [sum(flag.value for flag in TcpFlag if getattr(value, str(flag.name))) for value in values]
    return lambda flow: (
        flow.event.protocol == TCP and any(flow.event.tcp_flags & mask == mask for mask in masks)
    )


def _ip_versions(values: list[int]) -> Test:
    wanted = frozenset({1: 4, 2: 6}.get(value, 0) for value in values)
    return lambda flow: flow.event.source.version in wanted


def _encrypted(values: list[bool]) -> Test:
    wanted = frozenset(values)
    return lambda flow: flow.event.encrypted in wanted


def _uuids(values: list[str]) -> Test:
    wanted = frozenset(values)
    return lambda flow: flow.uuid in wanted


# --- what hosts do not have ---


def _unmatched(_values: list[Any]) -> Test:
    return _nothing


def _regular_expressions(values: list[str]) -> Test:
    for value in values:
        if len(value) > _LONGEST_REGEX:
            raise WardmeshError(
                "the regular expression is too long", why=f"at most {_LONGEST_REGEX} characters"
            )
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise WardmeshError(f"{value!r} is no regular expression", why=str(error)) from error
    return _nothing


def _translated(values: list[str]) -> Test:
    _networks(values)
    return _nothing


def _http_status(values: list[str]) -> Test:
    for value in values:
        if not _HTTP_STATUS.match(value):
            raise WardmeshError(f"{value!r} is no HTTP status", remedy="write 404, 4+ or 40+")
    return _nothing


def _experimental(values: list[Any]) -> Test:
    if any(value.cel_expression for value in values):
        raise WardmeshError(
            "CEL expressions are not evaluated here", remedy="write the condition with the other filters"
        )
    return everything


FIELDS: dict[str, Callable[[list[Any]], Test]] = {
    "uuid": _uuids,
    "source_ip": _ips(True),
    "source_ip_xlated": _translated,
    "source_pod": _pods(True),
    "source_fqdn": _domain_names(True),
    "source_label": _labels(True),
    "source_service": _services,
    "source_workload": _unmatched,
    "source_cluster_name": _clusters(True),
    "destination_ip": _ips(False),
    "destination_pod": _pods(False),
    "destination_fqdn": _domain_names(False),
    "destination_label": _labels(False),
    "destination_service": _services,
    "destination_workload": _unmatched,
    "destination_cluster_name": _clusters(False),
    "traffic_direction": _directions,
    "verdict": _verdicts,
    "drop_reason_desc": _reasons,
    "interface": _interfaces,
    "event_type": _event_types,
    "http_status_code": _http_status,
    "protocol": _protocols,
    "source_port": _ports(True),
    "destination_port": _ports(False),
    "reply": _replies,
    "dns_query": _regular_expressions,
    "source_identity": _identities(True),
    "destination_identity": _identities(False),
    "http_method": _unmatched,
    "http_path": _regular_expressions,
    "http_url": _regular_expressions,
    "http_header": _unmatched,
    "tcp_flags": _tcp_flags,
    "node_name": _node_names,
    "node_labels": lambda values: _by_labels(values, lambda flow: flow.node_labels),
    "ip_version": _ip_versions,
    "trace_id": _unmatched,
    "ip_trace_id": _unmatched,
    "encrypted": _encrypted,
    "experimental": _experimental,
}
