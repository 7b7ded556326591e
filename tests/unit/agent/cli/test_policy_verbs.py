# SPDX-License-Identifier: Apache-2.0
"""The offline verbs of policy, on files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wardmesh.cli.main import main

NODES = """
cluster: prod
nodes:
  web1: {ip: 10.0.0.1, labels: {app: web}}
  db1: {ip: 10.0.0.2, labels: {app: db}, ports: {pg: 5432}}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: pg, protocol: TCP}]}]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with nodes, an old and a new set."""
    for name, text in (("old", POLICY), ("new", POLICY.replace("pg", '"5433"'))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "db.yaml").write_text(text)
    (tmp_path / "nodes.yaml").write_text(NODES)
    return tmp_path


def test_validate(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "validate", str(files / "old")]) == 0
    assert "1 policies, 0 CIDR groups: valid" in capsys.readouterr().out
    (files / "old/bad.yaml").write_text("kind: [")
    (files / "old/worse.yaml").write_text(POLICY.replace("ingress", "ingres"))
    assert main(["policy", "validate", str(files / "old")]) == 1
    said = capsys.readouterr().err
    assert "2 files are not valid" in said and "did you mean ingress?" in said
    assert "bad.yaml:" in said and "broken YAML" in said


def test_assertions(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = files / "tests.yaml"
    tests.write_text(
        "tests:\n- {from: web1, to: db1, port: 5432/tcp, expect: allowed}\n"
        "- {from: 192.0.2.1, to: db1, port: 5432, expect: denied}\n"
    )
    arguments = [
        "policy",
        "test",
        str(files / "old"),
        "--fleet",
        str(files / "nodes.yaml"),
        "--tests",
        str(tests),
    ]
    assert main(arguments) == 0
    assert "2 of 2 assertions hold" in capsys.readouterr().out
    tests.write_text("tests: [{from: web1, to: db1, port: 22/tcp, expect: allowed}]")
    assert main(arguments) == 1
    assert "expected allowed, found denied" in capsys.readouterr().out


def test_cases_count_and_differ(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Path(__file__).parents[3] / "conformance/tables/semantics.jsonl"
    assert main(["policy", "test", "--cases", str(table)]) == 0
    assert "37 cases, 4958 verdicts, 0 differences" in capsys.readouterr().out
    case = json.loads(table.read_text().splitlines()[0])
    case["queries"][0]["ingress"] = "denied" if case["queries"][0]["ingress"] == "allowed" else "allowed"
    (files / "wrong.jsonl").write_text(json.dumps(case))
    assert main(["policy", "test", "--cases", str(files / "wrong.jsonl"), "-o", "json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["differences"]) == 1


@pytest.mark.parametrize(
    ("source", "port", "said"),
    [
        ("web1", "5432/tcp", "allowed by"),
        ("web1", "22/tcp", "default deny, and none of 1 rule items"),
        ("192.0.2.7", "5432/tcp", "default deny"),
    ],
)
def test_trace_names_what_decides(
    files: Path, capsys: pytest.CaptureFixture[str], source: str, port: str, said: str
) -> None:
    words = ["--from", source, "--to", "db1", "--port", port]
    assert main(["policy", "trace", str(files / "old"), "--fleet", str(files / "nodes.yaml"), *words]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert ("db.yaml: db spec.ingress[0]" in out) is (said == "allowed by")


def test_diff_and_selectors(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = ["--fleet", str(files / "nodes.yaml")]
    assert main(["policy", "diff", str(files / "old"), str(files / "new"), *nodes]) == 1
    assert capsys.readouterr().out == "opens  web1 -> db1 5433/tcp\ncloses web1 -> db1 5432/tcp\n"
    assert main(["policy", "diff", str(files / "old"), str(files / "old"), *nodes]) == 0
    capsys.readouterr()
    (files / "new/more.yaml").write_text(
        POLICY.replace("name: db", "name: nobody").replace("app: db", "app: dp")
    )
    assert main(["policy", "selectors", str(files / "new"), *nodes]) == 0
    assert "the rule selects nobody: app=dp" in capsys.readouterr().err


def test_a_whole_set_of_nothing_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder, perhaps of another branch, would open every host."""
    (files / "empty").mkdir()
    (files / "root/etc/wardmesh/policies").mkdir(parents=True)
    own = ["--root", str(files / "root")]
    assert main([*own, "policy", "apply", str(files / "old")]) == 0
    assert main([*own, "policy", "apply", str(files / "empty"), "--replace"]) == 1
    said = capsys.readouterr().err
    assert str(files / "empty") in said and "policy delete --all" in said
    assert (files / "root/etc/wardmesh/policies/db.yaml").read_text() == POLICY
