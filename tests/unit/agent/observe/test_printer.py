# SPDX-License-Identifier: Apache-2.0
"""Lines of `observe`, letter by letter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.agent.observe.support import TIME, event, namer

from wardmesh.observe.convert import flow_of
from wardmesh.observe.flow import (
    Direction,
    Flow,
    FlowEvent,
    Kind,
    Lost,
    LostSource,
    Policy,
    TcpFlag,
    Traffic,
    Verdict,
)
from wardmesh.observe.getflows import Encoder
from wardmesh.observe.merge import status
from wardmesh.observe.printer import Printer, Style, time_text
from wardmesh.observe.proto import message
from wardmesh.observe.reasons import drop_reason

NAMER = namer()
ENCODER = Encoder(lambda: "lab/db1")
WEB, DB = NAMER.names.party(event().source).identity, NAMER.names.party(event().destination).identity


def answer(made: FlowEvent | Flow | Lost) -> Any:
    return ENCODER.message(NAMER.flow(made) if isinstance(made, FlowEvent) else made, None)


def printed(*answers: Any, **style: Any) -> tuple[list[str], list[str]]:
    out: list[str] = []
    err: list[str] = []
    printer = Printer(Style(**style), out.append, err.append)
    for item in answers:
        printer.write(item)
    printer.flush()
    return out, err


LINES: list[tuple[str, FlowEvent, str]] = [
    (
        "an allowed first packet",
        event(56),
        f"web1:40056 (ID:{WEB}) -> db1:5432 (ID:{DB}) policy-verdict:L3-L4 INGRESS ALLOWED (TCP Flags: SYN)",
    ),
    (
        "a stranger that policy drops",
        event(56, kind=Kind.DROP, verdict=Verdict.DROPPED, drop_reason=133, source="203.0.113.9"),
        f"203.0.113.9:40056 (world) -> db1:5432 (ID:{DB}) Policy denied DROPPED (TCP Flags: SYN)",
    ),
    (
        "a reply, its opener on the left",
        event(
            56,
            kind=Kind.TRACE,
            observation_point=11,
            source="10.0.0.11",
            destination="10.0.0.1",
            source_port=5432,
            destination_port=40056,
            is_reply=True,
            tcp_flags=int(TcpFlag.SYN | TcpFlag.ACK),
        ),
        f"web1:40056 (ID:{WEB}) <- db1:5432 (ID:{DB}) to-network FORWARDED (TCP Flags: SYN, ACK)",
    ),
    (
        "nobody knows who opened it",
        event(56, kind=Kind.TRACE, observation_point=10, is_reply=None, protocol=17),
        f"web1:40056 (ID:{WEB}) <> db1:5432 (ID:{DB}) from-network FORWARDED (UDP)",
    ),
    (
        "audited, without a match",
        event(56, verdict=Verdict.AUDIT, policy_match_type=0, direction=Direction.EGRESS),
        f"web1:40056 (ID:{WEB}) -> db1:5432 (ID:{DB}) policy-verdict:none EGRESS AUDITED (TCP Flags: SYN)",
    ),
    (
        "ICMP has no ports",
        event(56, protocol=1, icmp_type=8, kind=Kind.TRACE, observation_point=101, tcp_flags=0),
        f"web1 (ID:{WEB}) -> db1 (ID:{DB}) to-endpoint FORWARDED (ICMPv4 EchoRequest)",
    ),
    (
        "IPv6 in brackets",
        event(
            56,
            source="2001:db8::1",
            destination="2001:db8::2",
            kind=Kind.DROP,
            drop_reason=195,
            verdict=Verdict.DROPPED,
        ),
        (
            "[2001:db8::1]:40056 (world) -> [2001:db8::2]:5432 (world) "
            "Traffic is unencrypted DROPPED (TCP Flags: SYN)"
        ),
    ),
    (
        "a connection's end",
        event(
            56,
            kind=Kind.TRACE,
            observation_point=101,
            tcp_flags=int(TcpFlag.SYN | TcpFlag.ACK | TcpFlag.FIN | TcpFlag.PSH),
            traffic=Traffic(10, 12, 1000, 24000, 1_500_000_000, 400_000, True),
        ),
        (
            f"web1:40056 (ID:{WEB}) -> db1:5432 (ID:{DB}) to-endpoint FORWARDED "
            "(TCP Flags: SYN, ACK, FIN, PSH; 10 packets 1000 bytes, "
            "back 12 packets 24000 bytes, 1.500 s, rtt 0.400 ms)"
        ),
    ),
    (
        "a protocol without a name",
        event(56, protocol=47),
        f"web1 (ID:{WEB}) -> db1 (ID:{DB}) policy-verdict:L3-L4 INGRESS ALLOWED (protocol 47)",
    ),
]


@pytest.mark.parametrize(("made", "line"), [row[1:] for row in LINES], ids=[row[0] for row in LINES])
def test_compact(made: FlowEvent, line: str) -> None:
    assert printed(answer(made)) == ([f"Nov 14 22:13:20.056: {line}"], [])


def test_dict_has_a_rule_between_records() -> None:
    out, _err = printed(answer(event(1)), answer(event(2)), output="dict", node=True)
    assert "\n".join(out) == (
        "  TIMESTAMP: Nov 14 22:13:20.001\n"
        "       NODE: lab/db1\n"
        "     SOURCE: web1:40001\n"
        "DESTINATION: db1:5432\n"
        "       TYPE: policy-verdict:L3-L4 INGRESS\n"
        "    VERDICT: ALLOWED\n"
        "    SUMMARY: TCP Flags: SYN\n"
        "------------\n"
        "  TIMESTAMP: Nov 14 22:13:20.002\n"
        "       NODE: lab/db1\n"
        "     SOURCE: web1:40002\n"
        "DESTINATION: db1:5432\n"
        "       TYPE: policy-verdict:L3-L4 INGRESS\n"
        "    VERDICT: ALLOWED\n"
        "    SUMMARY: TCP Flags: SYN"
    )


def test_table_has_its_head_once_and_columns_of_one_width() -> None:
    out, _err = printed(answer(event(1)), answer(event(2, source="203.0.113.9")), output="table", node=True)
    when, where, kind = (
        "Nov 14 22:13:20.00",
        "lab/db1   ",
        "policy-verdict:L3-L4 INGRESS   ALLOWED   TCP Flags: SYN",
    )
    assert out == [
        f"{'TIMESTAMP':22}NODE      SOURCE{'':14}DESTINATION   TYPE{'':27}VERDICT   SUMMARY",
        f"{when}1   {where}web1:40001          db1:5432      {kind}",
        f"{when}2   {where}203.0.113.9:40002   db1:5432      {kind}",
    ]


@pytest.mark.parametrize("output", ["json", "jsonpb"])
def test_json_is_one_line_with_the_names_of_the_proto_files(output: str) -> None:
    (line,), _err = printed(answer(event(1, policy_match_type=2)), output=output)
    document = json.loads(line)
    assert set(document) == {"flow", "node_name", "time"}
    got = document["flow"]
    assert document["time"] == got["time"] == "2023-11-14T22:13:20.001Z"
    assert (got["verdict"], got["traffic_direction"], got["Type"]) == ("FORWARDED", "INGRESS", "L3_L4")
    assert got["IP"] == {
        "source": "10.0.0.1",
        "destination": "10.0.0.11",
        "ipVersion": "IPv4",
        "encrypted": True,
    }
    assert got["l4"]["TCP"] == {"source_port": 40001, "destination_port": 5432, "flags": {"SYN": True}}
    assert got["is_reply"] is False and got["Summary"] == "TCP Flags: SYN"
    assert got["source"]["pod_name"] == "web1" and "namespace" not in got["source"]
    assert got["event_type"] == {"type": 5}


def test_colours_are_asked_for() -> None:
    ((plain,), _), ((coloured,), _) = printed(answer(event(1))), printed(answer(event(1)), colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32mALLOWED\x1b[0m" in coloured and "\x1b[36mweb1\x1b[0m:\x1b[33m40001\x1b[0m" in coloured
    ((dropped,), _) = printed(answer(event(1, verdict=Verdict.DROPPED)), colour=True)
    assert "\x1b[31mDENIED\x1b[0m" in dropped


def test_names_of_policies_and_addresses_instead_of_names() -> None:
    made = event(1, allowed_by=(Policy("web-to-db"), Policy("base", "shop")))
    assert " ALLOWED BY web-to-db, shop/base (" in printed(answer(made), policy_names=True)[0][0]
    assert ": 10.0.0.1:40001 (ID:" in printed(answer(made), names=False)[0][0]


def test_a_name_cannot_move_the_cursor() -> None:
    made = answer(event(1))
    made.flow.source.pod_name = "evil\x1b[2J\r\nname"
    made.flow.Summary = "a\tb\x07"
    ((line,), _) = printed(made)
    assert all(character.isprintable() for character in line)


def test_lost_events_and_nodes_are_told_beside_the_flows() -> None:
    lost = answer(Lost(LostSource.RING, 5, TIME, TIME))
    assert printed(lost) == ([], ["EVENTS LOST: HUBBLE_RING_BUFFER CPU(0) 5"])
    gone, joined = status(2, ["lab/a", "lab/b"], "lab/relay"), status(1, ["lab/c"], "lab/relay")
    out, err = printed(gone, joined)
    assert out == [] and len(err) == 1
    assert err[0].endswith("[lab/relay]: 2 nodes are unavailable: lab/a, lab/b")
    assert printed(joined, debug=True)[1][0].endswith("Receiving flows from 1 nodes: lab/c")
    many = status(2, [f"lab/node{number:04d}" for number in range(1000)], "lab/relay")
    assert printed(many)[1][0].endswith("(and 997 more)")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("StampMilli", "Jan  2 03:04:05.006"),
        ("RFC3339", "2024-01-02T03:04:05Z"),
        ("RFC3339Milli", "2024-01-02T03:04:05.006Z"),
        ("RFC3339Micro", "2024-01-02T03:04:05.006000Z"),
        ("RFC3339Nano", "2024-01-02T03:04:05.006Z"),
        ("RFC1123Z", "Tue, 02 Jan 2024 03:04:05 +0000"),
    ],
)
def test_times(form: str, text: str) -> None:
    assert time_text(1_704_164_645_006_000_000, form) == text
    assert time_text(0, form) == "N/A"


@pytest.mark.parametrize(
    ("number", "words"),
    [(133, "Policy denied"), (181, "Policy denied by denylist"), (140, "Missed tail call"), (250, "250")],
)
def test_reasons_of_drops(number: int, words: str) -> None:
    assert drop_reason(number) == words


def test_every_line_of_a_newer_server_is_printed_somehow() -> None:
    made = message("observer.GetFlowsResponse")()
    made.flow.verdict, made.flow.event_type.type, made.flow.event_type.sub_type = 77, 99, 3
    assert printed(made)[0] == ["N/A:  (unknown) <>  (unknown) UNKNOWN 77 ()"]
    made.flow.l7.http.method = "GET"
    made.flow.l7.type = 1
    assert "http-request" in printed(made)[0][0]


@pytest.mark.parametrize("made", [row[1] for row in LINES], ids=[row[0] for row in LINES])
def test_a_message_becomes_the_flow_that_it_was(made: FlowEvent) -> None:
    flow = NAMER.flow(made)
    back = flow_of(ENCODER.message(flow, None).flow)
    if made.protocol == 47:  # Layer4 has no word for it
        flow = flow._replace(
            event=flow.event._replace(protocol=0, source_port=0, destination_port=0, tcp_flags=0)
        )
    if made.protocol != 6:
        flow = flow._replace(event=flow.event._replace(tcp_flags=0))
    if made.protocol == 1:
        flow = flow._replace(event=flow.event._replace(source_port=0, destination_port=0))
    identities = {
        "source_identity": flow.source.identity,
        "destination_identity": flow.destination.identity,
    }
    assert back == flow._replace(event=flow.event._replace(**identities))
