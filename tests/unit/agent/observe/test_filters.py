# SPDX-License-Identifier: Apache-2.0
"""Every field of a FlowFilter: what matches, what does not, and the whole against a naive reading."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.budget import fuzz
from tests.unit.agent.observe.support import event, flow_filter, namer

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.filters import compile_filter, compile_filters
from wardmesh.observe.flow import Direction, Flow, Kind, TcpFlag, Verdict
from wardmesh.observe.labelfilter import index, parse
from wardmesh.observe.matchers import FIELDS
from wardmesh.observe.proto import message
from wardmesh.observe.wildcards import wildcard

NAMER = namer()
FLOW = NAMER.flow(
    event(
        0,
        verdict=Verdict.DROPPED,
        kind=Kind.DROP,
        drop_reason=133,
        tcp_flags=int(TcpFlag.SYN | TcpFlag.ACK),
        interface="eth0",
        interface_index=2,
    )
)._replace(uuid="3f1", node_labels=("app=db", "zone=a"))
NOTHING: Any = None


def tcp(*names: str) -> Any:
    return message("flow.TCPFlags")(**dict.fromkeys(names, True))


def kind(number: int, sub: int | None = None) -> Any:
    made = message("flow.EventTypeFilter")(type=number)
    if sub is not None:
        made.match_sub_type, made.sub_type = True, sub
    return made


def interface(**fields: Any) -> Any:
    return message("flow.NetworkInterface")(**fields)


# Field, a list of values that match FLOW (None: nothing on hosts does), a list that does not.
TABLE: list[tuple[str, Any, Any]] = [
    ("uuid", ["3f1"], ["3f2"]),
    ("source_ip", ["10.0.0.1"], ["10.0.0.11"]),
    ("source_ip", ["192.0.2.0/24", "10.0.0.0/29"], ["10.0.0.8/29", "::/0"]),
    ("source_ip_xlated", NOTHING, ["10.0.0.1", "10.0.0.0/8"]),
    ("source_pod", ["web1"], ["web2"]),
    ("source_pod", ["we"], ["eb"]),
    ("source_pod", ["default/web1", "kube-system/x"], ["kube-system/web1", "kube-system/"]),
    ("source_pod", ["/web"], ["/db"]),
    ("source_pod", ["default/"], ["shop/"]),
    ("source_fqdn", NOTHING, ["web1", "*"]),
    ("source_label", ["app=web"], ["app=db"]),
    ("source_label", ["vm:app in (web, api), !debug"], ["k8s:app=web"]),
    ("source_label", ["reserved:remote-node"], ["reserved:host"]),
    ("source_service", NOTHING, ["default/web", "web"]),
    ("source_workload", NOTHING, [message("flow.Workload")(name="web")]),
    ("source_cluster_name", ["lab"], ["other"]),
    ("destination_ip", ["10.0.0.11"], ["10.0.0.1"]),
    ("destination_ip", ["10.0.0.8/29"], ["10.0.0.0/29"]),
    ("destination_pod", ["db"], ["web"]),
    ("destination_fqdn", NOTHING, ["db1"]),
    ("destination_label", ["app notin (web)", "app=x"], ["app!=db"]),
    ("destination_label", ["reserved:host"], ["reserved:remote-node"]),
    ("destination_service", NOTHING, ["default/db"]),
    ("destination_workload", NOTHING, [message("flow.Workload")(kind="Deployment")]),
    ("destination_cluster_name", ["other", "lab"], ["other"]),
    ("traffic_direction", [1], [2]),
    ("verdict", [1, 2], [1, 4]),
    ("drop_reason_desc", [133], [181]),
    ("interface", [interface(name="eth0")], [interface(name="eth1")]),
    ("interface", [interface(index=2)], [interface(index=3), interface(name="eth0", index=9)]),
    ("event_type", [kind(1)], [kind(4), kind(5)]),
    ("event_type", [kind(1, 133)], [kind(1, 134)]),
    ("event_type", [kind(0)], [kind(0, 1)]),
    ("http_status_code", NOTHING, ["404", "5+", "40+"]),
    ("protocol", ["tcp"], ["udp", "icmp"]),
    ("protocol", ["TCP", "http"], ["http", "dns", "kafka"]),
    ("source_port", ["40000"], ["5432"]),
    ("destination_port", ["1", "5432"], ["40000"]),
    ("reply", [False], [True]),
    ("dns_query", NOTHING, [".*"]),
    ("source_identity", [FLOW.source.identity], [2]),
    ("destination_identity", [2, FLOW.destination.identity], [FLOW.source.identity]),
    ("http_method", NOTHING, ["GET"]),
    ("http_path", NOTHING, [".*"]),
    ("http_url", NOTHING, [".*"]),
    ("http_header", NOTHING, [message("flow.HTTPHeader")(key="a", value="b")]),
    ("tcp_flags", [tcp("SYN")], [tcp("FIN")]),
    ("tcp_flags", [tcp("RST"), tcp("SYN", "ACK")], [tcp("SYN", "RST")]),
    ("node_name", ["lab/db1"], ["lab/web1"]),
    ("node_name", ["d*", "x"], ["lab/*2", "lab/d"]),
    ("node_name", ["lab/"], ["other/"]),
    ("node_name", ["/db1"], ["/db"]),
    ("node_labels", ["app=db,zone in (a,b)"], ["app=db,zone=b"]),
    ("ip_version", [1], [2]),
    ("trace_id", NOTHING, ["1"]),
    ("ip_trace_id", NOTHING, [1]),
    ("encrypted", [True], [False]),
    ("experimental", message("flow.FlowFilter.Experimental")(), NOTHING),
]


@pytest.mark.parametrize(("name", "good", "bad"), TABLE)
def test_a_field_matches_and_does_not(name: str, good: Any, bad: Any) -> None:
    if good is not None:
        assert compile_filter(flow_filter(**{name: good}))(FLOW)
    if bad is not None:
        assert not compile_filter(flow_filter(**{name: bad}))(FLOW)


def test_the_table_has_every_field_of_the_message() -> None:
    fields = set(message("flow.FlowFilter").DESCRIPTOR.fields_by_name)
    assert {row[0] for row in TABLE} == fields == set(FIELDS)


WRONG: list[tuple[str, list[Any]]] = [
    ("source_ip", ["10.0.0.256"]),
    ("destination_ip", ["10.0.0.0/33"]),
    ("source_ip_xlated", ["x"]),
    ("source_pod", [""]),
    ("source_pod", ["a/b/c"]),
    ("source_fqdn", ["a b"]),
    ("source_label", ["a=b=c"]),
    ("source_label", ["(a)"]),
    ("source_label", ["a in ()x"]),
    ("destination_label", ["a in (b"]),
    ("destination_label", ["a,"]),
    ("destination_label", ["!"]),
    ("destination_label", ["a > b"]),
    ("destination_label", ["a" * 5000]),
    ("source_port", ["65536"]),
    ("destination_port", ["-1"]),
    ("protocol", ["gopher"]),
    ("node_name", ["a/b/c"]),
    ("node_name", ["a(b"]),
    ("http_status_code", ["600"]),
    ("http_path", ["["]),
    ("dns_query", ["(?P<x"]),
    ("http_url", ["*"]),
    ("uuid", ["x"] * 5000),
]


@pytest.mark.parametrize(("name", "values"), WRONG)
def test_a_value_that_cannot_be_read_is_named(name: str, values: list[Any]) -> None:
    with pytest.raises(WardmeshError) as caught:
        compile_filters([flow_filter(**{name: values})], [])
    assert f"whitelist[0].{name}" in caught.value.where


def test_entries_are_ored_fields_are_anded_and_the_blacklist_wins() -> None:
    tcp_only, udp_only = flow_filter(protocol=["tcp"]), flow_filter(protocol=["udp"])
    both = flow_filter(protocol=["tcp"], verdict=[1])
    assert compile_filters([udp_only, tcp_only], [])(FLOW)
    assert not compile_filters([both], [])(FLOW)
    assert not compile_filters([tcp_only], [tcp_only])(FLOW)
    assert compile_filters([], [both])(FLOW)
    assert compile_filters([], [])(FLOW)
    assert compile_filters([flow_filter()], [])(FLOW)


def test_a_pattern_cannot_run_away() -> None:
    test = compile_filter(flow_filter(node_name=["*a" * 100 + "*x"]))
    assert not test(FLOW._replace(node_name="lab/" + "a" * 250))
    assert test(FLOW._replace(node_name="lab/" + "a" * 249 + "x"))
    with pytest.raises(WardmeshError):
        compile_filter(flow_filter(http_path=["a" * 5000]))


@given(st.text(alphabet="ab*", min_size=1, max_size=8), st.text(alphabet="ab", min_size=1, max_size=8))
def test_a_wildcard_is_what_its_regular_expression_is(pattern: str, name: str) -> None:
    wanted = re.fullmatch(pattern.replace("*", ".*"), name) is not None
    assert wildcard(pattern)(name) is wanted


# --- the same, read naively ---

FLOWS: list[Flow] = [
    NAMER.flow(
        event(
            number,
            source=("10.0.0.1", "10.0.0.2", "203.0.113.5", "10.0.0.12")[number % 4],
            verdict=(Verdict.FORWARDED, Verdict.DROPPED, Verdict.AUDIT)[number % 3],
            direction=(Direction.INGRESS, Direction.EGRESS)[number % 2],
            protocol=(6, 17, 1)[number % 3],
            is_reply=(None, True, False)[number % 3],
            encrypted=number % 5 == 0,
            destination_port=(80, 443)[number // 2 % 2],
        )
    )
    for number in range(60)
]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "source_ip": st.sampled_from(["10.0.0.1", "10.0.0.0/30", "203.0.113.0/24", "0.0.0.0/0"]),
    "source_pod": st.sampled_from(["web", "web1", "default/web2", "shop/web1", "db1.example.com"]),
    "source_fqdn": st.sampled_from(["*.example.com", "db1.*", "web1"]),
    "verdict": st.sampled_from([1, 2, 4]),
    "traffic_direction": st.sampled_from([1, 2]),
    "protocol": st.sampled_from(["tcp", "udp", "icmp"]),
    "reply": st.booleans(),
    "encrypted": st.booleans(),
    "destination_port": st.sampled_from(["80", "443", "22"]),
}
FILTERS = st.fixed_dictionaries(
    {}, optional={name: st.lists(values, min_size=1, max_size=2) for name, values in VALUES.items()}
)


def naive(flow: Flow, name: str, value: Any) -> bool:
    seen = flow.event
    if name == "source_ip":
        return seen.source in ipaddress.ip_network(value)
    if name == "source_pod":
        space, _slash, prefix = value.rpartition("/")
        return bool(flow.source.name) and space in ("", "default") and flow.source.name.startswith(prefix)
    if name == "source_fqdn":
        known = "db1.example.com" if str(seen.source) == "10.0.0.12" else ""
        return (
            known.startswith(value[:-1]) if value.endswith("*") else known.endswith(value[1:]) and bool(known)
        )
    if name == "protocol":
        return {6: "tcp", 17: "udp", 1: "icmp"}[seen.protocol] == value
    if name == "destination_port":
        return seen.protocol != 1 and str(seen.destination_port) == value
    found = {
        "verdict": seen.verdict,
        "traffic_direction": seen.direction,
        "reply": seen.is_reply,
        "encrypted": seen.encrypted,
    }
    return bool(found[name] is not None and found[name] == value)


def naive_entry(flow: Flow, entry: dict[str, Sequence[Any]]) -> bool:
    return all(any(naive(flow, name, value) for value in values) for name, values in entry.items())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FILTERS, max_size=3), st.lists(FILTERS, max_size=2))
def test_compiled_filters_say_what_a_naive_reading_says(
    white: list[dict[str, Any]], black: list[dict[str, Any]]
) -> None:
    test = compile_filters([flow_filter(**e) for e in white], [flow_filter(**e) for e in black])
    for flow in FLOWS:
        wanted = (not white or any(naive_entry(flow, entry) for entry in white)) and not any(
            naive_entry(flow, entry) for entry in black
        )
        assert test(flow) is wanted, (flow, white, black)


SELECTORS = [
    ("", True),
    ("app", True),
    ("!app", False),
    ("app=web", True),
    ("app==web", True),
    ("app = web , env!=stage", True),
    ("any:app=web", True),
    ("vm:app=web", True),
    ("k8s:app=web", False),
    ("app in (web)", True),
    ("app in(api,web)", True),
    ("app notin (web, api)", False),
    ("missing notin (a)", True),
    ("missing!=a", True),
    ("missing=a", False),
    ("empty=", True),
    ("empty in ()", True),
    ("app=", False),
    ("count>3", True),
    ("count<3", False),
    ("k8s:io.cilium.k8s.policy.cluster=lab", True),
    ("example.com/role=x", True),
    ("reserved:host", True),
]


@pytest.mark.parametrize(("text", "wanted"), SELECTORS)
def test_label_selectors(text: str, wanted: bool) -> None:
    labels = index(
        [
            "vm:app=web",
            "vm:env=prod",
            "vm:empty=",
            "vm:count=4",
            "k8s:io.cilium.k8s.policy.cluster=lab",
            "k8s:example.com/role=x",
            "reserved:host",
        ]
    )
    assert parse(text)(labels) is wanted


@fuzz(100)
@given(st.text(alphabet="ab:=!,() inot<>/'\"\\\n", max_size=30))
def test_no_selector_is_anything_but_read_or_refused(text: str) -> None:
    try:
        parse(text)(index(["vm:a=b"]))
    except WardmeshError as error:
        assert error.what
