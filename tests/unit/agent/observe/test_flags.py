# SPDX-License-Identifier: Apache-2.0
"""From the command line to the request that it means; and the verbs, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.observe.support import TIME, Served, event, fleet_bytes, namer

from wardmesh.cli.main import main, parser
from wardmesh.cli.observe import access_of, request_of
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.convert import time_of
from wardmesh.observe.flags import parse_time
from wardmesh.observe.flow import Kind, Verdict
from wardmesh.observe.getflows import Encoder
from wardmesh.observe.jsonform import to_json

S, D = "source", "destination"


def asked(*words: str) -> Any:
    return request_of(parser().parse_args(["observe", *words]))


def lists(*words: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    made = asked(*words)
    return [json.loads(to_json(f)) for f in made.whitelist], [json.loads(to_json(f)) for f in made.blacklist]


FILTERS: list[tuple[str, list[dict[str, Any]]]] = [
    ("", []),
    ("--ip 10.0.0.1", [{"source_ip": ["10.0.0.1"]}, {"destination_ip": ["10.0.0.1"]}]),
    ("--from-ip 10.0.0.1 --to-ip 10.0.0.2", [{"source_ip": ["10.0.0.1"], "destination_ip": ["10.0.0.2"]}]),
    ("--pod web --pod db", [{"source_pod": ["web", "db"]}, {"destination_pod": ["web", "db"]}]),
    (
        "--pod web --to-port 80",
        [
            {"source_pod": ["web"], "destination_port": ["80"]},
            {"destination_pod": ["web"], "destination_port": ["80"]},
        ],
    ),
    ("-l app=web", [{"source_label": ["app=web"]}, {"destination_label": ["app=web"]}]),
    ("--from-label app=web", [{"source_label": ["app=web"]}]),
    ("--to-identity world", [{"destination_identity": [2]}]),
    ("--identity 77", [{"source_identity": [77]}, {"destination_identity": [77]}]),
    ("--to-cluster lab", [{"destination_cluster_name": ["lab"]}]),
    ("--fqdn *.x", [{"source_fqdn": ["*.x"]}, {"destination_fqdn": ["*.x"]}]),
    ("--to-service web", [{"destination_service": ["web"]}]),
    ("--from-workload Deployment/web", [{"source_workload": [{"name": "web", "kind": "Deployment"}]}]),
    ("-n shop", [{"source_pod": ["shop/"]}, {"destination_pod": ["shop/"]}]),
    ("--from-namespace shop --from-pod web", [{"source_pod": ["shop/web"]}]),
    ("-A", [{"source_pod": ["/"]}, {"destination_pod": ["/"]}]),
    ("--verdict DROPPED --verdict audit", [{"verdict": ["DROPPED", "AUDIT"]}]),
    ("--verdict DROPPED,ERROR", [{"verdict": ["DROPPED", "ERROR"]}]),
    (
        "-t drop -t trace:to-network",
        [{"event_type": [{"type": 1}, {"type": 4, "match_sub_type": True, "sub_type": 11}]}],
    ),
    (
        "--type l7 --type 130:3",
        [{"event_type": [{"type": 129}, {"type": 130, "match_sub_type": True, "sub_type": 3}]}],
    ),
    ("--type trace:to-endpoint", [{"event_type": [{"type": 4, "match_sub_type": True}]}]),
    ("--type trace-audit", [{"event_type": [{"type": 5}], "verdict": ["AUDIT"]}]),
    ("--protocol tcp,udp", [{"protocol": ["tcp", "udp"]}]),
    ("--tcp-flags syn,ACK", [{"tcp_flags": [{"SYN": True, "ACK": True}]}]),
    ("--traffic-direction Ingress", [{"traffic_direction": ["INGRESS"]}]),
    ("-4", [{"ip_version": ["IPv4"]}]),
    ("-6 --ip-version v4", [{"ip_version": ["IPv6", "IPv4"]}]),
    ("--encrypted", [{"encrypted": [True]}]),
    ("--unencrypted", [{"encrypted": [False]}]),
    ("--drop-reason-desc POLICY_DENIED", [{"drop_reason_desc": ["POLICY_DENIED"]}]),
    ("--node-name lab/* --node-label a=b", [{"node_name": ["lab/*"], "node_labels": ["a=b"]}]),
    ("--interface eth0 --uuid u", [{"interface": [{"name": "eth0"}], "uuid": ["u"]}]),
    ("--snat-ip 1.1.1.1 --trace-id t", [{"source_ip_xlated": ["1.1.1.1"], "trace_id": ["t"]}]),
    ("--ip-trace-id 5", [{"ip_trace_id": ["5"]}]),
    (
        "--http-status 5+ --http-header a:b",
        [{"http_status_code": ["5+"], "http_header": [{"key": "a", "value": "b"}]}],
    ),
    (
        "--http-method GET --http-path /x --http-url u",
        [{"http_method": ["GET"], "http_path": ["/x"], "http_url": ["u"]}],
    ),
    ("--cel-expression true", [{"experimental": {"cel_expression": ["true"]}}]),
    ('--allowlist {"verdict":["DROPPED"]}', [{"verdict": ["DROPPED"]}]),
]


@pytest.mark.parametrize(("words", "wanted"), FILTERS, ids=[row[0] or "none" for row in FILTERS])
def test_flags_are_filters(words: str, wanted: list[dict[str, Any]]) -> None:
    white, black = lists(*words.split())
    assert sorted(map(str, white)) == sorted(map(str, wanted)) or white == wanted
    assert black == []


def test_not_speaks_about_the_next_filter_alone() -> None:
    white, black = lists(*["--not", "--ip", "10.0.0.1", "--verdict", "DROPPED", "--not", "--port", "22"])
    assert white == [{"verdict": ["DROPPED"]}]
    assert black == [
        {"source_ip": ["10.0.0.1"], "source_port": ["22"]},
        {"destination_ip": ["10.0.0.1"], "destination_port": ["22"]},
    ]


@pytest.mark.parametrize(
    "words",
    [
        "--verdict PERHAPS",
        "--type nothing",
        "--type trace:nowhere",
        "--tcp-flags XMAS",
        "--traffic-direction up",
        "--identity somebody",
        "--drop-reason-desc BECAUSE",
        "--ip-version 5",
        "--ip 1.1.1.1 --from-ip 1.1.1.1",
        "--encrypted --unencrypted",
        "--last 5 --first 5",
        "--follow --first 5",
        "--all --last 3",
        "--since yesterday",
        "--allowlist {",
        '--allowlist {"nose":1}',
        "--ip-trace-id 0",
        "--http-header x",
        "--ip 1.1.1.1 --not",
    ],
)
def test_what_cannot_be_meant_is_one_sentence(words: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        asked(*words.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["--last 0", "--last -1", "--last x", "--not --not --ip 1.1.1.1", "-o xml"])
def test_wrong_usage_is_the_parsers(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked(*words.split())
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "number", "first", "follow"),
    [
        ("", 20, False, False),
        ("--last 5", 5, False, False),
        ("--first 5", 5, True, False),
        ("--all", 2**64 - 1, False, False),
        ("-f", 0, False, True),
        ("-f --last 3", 3, False, True),
        ("--since 5m", 0, False, False),
    ],
)
def test_how_many(words: str, number: int, first: bool, follow: bool) -> None:
    made = asked(*words.split())
    assert (made.number, made.first, made.follow) == (number, first, follow)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 700),
        ("1h30m", -4400),
        ("500ms", 999.5),
        ("1970-01-01T00:10:00Z", 600),
        ("1970-01-01T00:10:00.25+00:00", 600.25),
        ("1970-01-01T01:10:00.123456789+01:00", 600.123456),
        ("1700000000", 1_700_000_000),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text, "since", 1000.0) == pytest.approx(seconds * 1e9, abs=1000)


def test_since_reaches_the_request() -> None:
    assert time_of(asked("--since", "2023-11-14T22:13:20Z").since) == TIME


def test_who_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def target(*words: str) -> str:
        return access_of(parser().parse_args(["--root", "/r", "observe", *words])).target

    monkeypatch.delenv("HUBBLE_SERVER", raising=False)
    assert target() == "unix:///r/run/wardmesh/hubble.sock"
    assert target("--fleet") == "127.0.0.1:4245"
    assert target("--server", "tls://h:1") == "tls://h:1"
    monkeypatch.setenv("HUBBLE_SERVER", "h:2")
    assert target() == "h:2"
    with pytest.raises(WardmeshError):
        target("--fleet", "--server", "h:1")


# --- the verbs ---


@pytest.fixture
def flow_file(tmp_path: Path) -> Path:
    """Ten flows as an exporter would write them."""
    made, encoder = namer(), Encoder(lambda: "lab/db1")
    path = tmp_path / "flows.json"
    lines = []
    for number in range(10):
        changes: dict[str, Any] = {}
        if number % 2:
            changes = {"verdict": Verdict.AUDIT}
        if number == 4:
            changes = {"kind": Kind.DROP, "verdict": Verdict.DROPPED, "drop_reason": 133}
        lines.append(to_json(encoder.message(made.flow(event(number, **changes)), None)))
    path.write_text("\n".join(lines) + "\n\n")
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    status = main(list(words))
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", list(range(10))),
        ("--last 2", [8, 9]),
        ("--first 2", [0, 1]),
        ("--type trace-audit --last 2", [7, 9]),
        ("--not --verdict AUDIT", [0, 2, 4, 6, 8]),
        ("--type drop", [4]),
        ("--since 2023-11-14T22:13:20.007Z", [7, 8, 9]),
        ("--pod nobody", []),
    ],
)
def test_a_file_is_read_as_a_server_would_answer(
    flow_file: Path, capsys: pytest.CaptureFixture[str], words: str, wanted: list[int]
) -> None:
    status, out, _err = run(capsys, "observe", "--input-file", str(flow_file), *words.split())
    assert status == 0
    assert [int(line.split("web1:400")[1][:2]) for line in out] == wanted


def test_a_broken_file_is_told_with_its_line(flow_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow_file.write_text(flow_file.read_text() + '{"flow": 5}\n')
    status, _out, err = run(capsys, "observe", "--input-file", str(flow_file), "--all")
    assert status == 1 and f"{flow_file}:12" in err
    assert run(capsys, "observe", "--input-file", "/nowhere")[0] == 1


def test_a_server_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Served(tmp_path)
    try:
        server.add(*(event(number) for number in range(3)))
        status, out, err = run(capsys, "observe", "--server", server.target, "-o", "json", "--last", "2")
        assert (status, err) == (0, "")
        assert [json.loads(line)["flow"]["l4"]["TCP"]["source_port"] for line in out] == [40001, 40002]
        status, out, err = run(capsys, "observe", "--server", server.target, "--ip", "x")
        assert status == 1 and "is no address" in err and len(err.splitlines()) == 1
    finally:
        server.close()


def test_nobody_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--root", str(tmp_path), "observe")
    assert status == 1 and out == []
    assert "wardmesh-observer" in err and len(err.splitlines()) == 1


def test_top_and_summary(flow_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ["--input-file", str(flow_file)]
    document = json.loads(run(capsys, "top", "--json", *file)[1][0])
    assert document["talkers"][0]["connections"] == 10
    assert document["drops"] == [{"reason": "Policy denied", "direction": "ingress", "count": 1}]
    assert [row["peer"] for row in document["peers"]] == ["web1"]
    rows = json.loads(run(capsys, "flows", "summary", "-o", "json", *file)[1][0])["flows"]
    assert [(r["from"], r["to"], r["port"], r["audited"], r["dropped"]) for r in rows] == [
        ("web1", "db1", "5432/tcp", 5, 1)
    ]
    table = run(capsys, "flows", "summary", *file)[1]
    assert table[0].split() == ["FROM", "TO", "PORT", "FORWARDED", "DROPPED", "AUDITED", "BYTES", "TUNNEL"]
    dot = run(capsys, "flows", "summary", "-o", "dot", *file)[1]
    assert dot[0] == "digraph flows {" and '  "web1" -> "db1" [label="5432/tcp", color=red];' in dot


def test_suggest_prints_policies(flow_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = tmp_path / "fleet.json"
    fleet.write_bytes(fleet_bytes())
    words = ["policy", "suggest", "--fleet", str(fleet), "--input-file", str(flow_file)]
    status, out, _err = run(capsys, *words)
    assert status == 0
    made = tmp_path / "made.yaml"
    made.write_text("\n".join(out) + "\n")
    assert run(capsys, "policy", "validate", str(made))[0] == 0
    assert "    # web1 -> db1 5432/tcp, seen 5 times" in out
    assert len(json.loads(run(capsys, *words, "--json")[1][0])["policies"]) == 1


def test_raw_filters_are_printed_and_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _err = run(
        capsys, "observe", "--ip", "10.0.0.1", "--not", "--port", "22", "--print-raw-filters"
    )
    assert status == 0
    assert out == [
        'whitelist: {"source_ip":["10.0.0.1"]}',
        'whitelist: {"destination_ip":["10.0.0.1"]}',
        'blacklist: {"source_port":["22"]}',
        'blacklist: {"destination_port":["22"]}',
    ]
