# SPDX-License-Identifier: Apache-2.0
"""Alert rules and dashboards: valid, with metrics that exist; and every rule fires when it should."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.unit.agent.observe.metrics_fakes import snapshot
from tests.unit.roles.grafana_check import complaints

from wardmesh.observe.metrics import Exposition
from wardmesh.observe.metrics_flows import FlowCounters
from wardmesh.observe.metrics_model import BY_NAME, HISTOGRAM, SUFFIXES
from wardmesh.observe.metrics_samples import samples

REPO = Path(__file__).resolve().parents[3]
FILES = REPO / "roles/observability/files"
RULES = FILES / "wardmesh.rules.yml"
CASES = Path(__file__).with_name("wardmesh.rules.test.yml")
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
TARGET_LABELS = {"cluster", "instance", "job", "le"}
NAME = re.compile(r"\b(?:cilium|hubble|wardmesh|certmanager)_\w+")


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def base_name(name):
    for suffix in SUFFIXES:
        base = name.removesuffix(suffix)
        if base != name and BY_NAME.get(base) and BY_NAME[base].kind == HISTOGRAM:
            return base
    return name


def wrong_names(query):
    """Metrics that do not exist, and labels that the metrics of the query do not have."""
    bare = re.sub(r'"[^"]*"', '""', query)
    names = {base_name(name) for name in NAME.findall(bare)}
    unknown = {name for name in names if name not in BY_NAME}
    known = {label for name in names if name in BY_NAME for label in BY_NAME[name].labels} | TARGET_LABELS
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", bare)
    grouped = [
        word for words in re.findall(r"(?:by|on|without) \(([^)]*)\)", bare) for word in words.split(",")
    ]
    return unknown | {label.strip() for label in [*matched, *grouped]} - known


def promtool(*words):
    return subprocess.run(
        ["promtool", *words], capture_output=True, text=True, check=False, timeout=120, cwd=CASES.parent
    )


def test_promtool_accepts_what_is_served():
    flows = FlowCounters()
    text = Exposition(lambda: samples(snapshot(300), flows.totals())).text().decode()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_accepts_the_rules():
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_fires_on_its_series_and_is_silent_on_others():
    done = promtool("test", "rules", str(CASES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_case_that_fires_and_one_that_does_not():
    cases = [case["alert_rule_test"][0] for case in yaml.safe_load(CASES.read_text())["tests"]]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == silent == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize(
    ("expression", "wait", "part"),
    [("vector(0) > 1", "0m", "fires"), ("vector(1)", "0m", "is silent"), (None, "3h", "fires")],
    ids=["never", "always", "too late"],
)
def test_a_rule_that_were_wrong_would_fail_its_case(tmp_path, expression, wait, part):
    """Each rule in its turn is spoilt; its own case must notice."""
    document = yaml.safe_load(RULES.read_text())
    cases = yaml.safe_load(CASES.read_text())
    for rule in [rule for group in document["groups"] for rule in group["rules"]]:
        rule["expr"], rule["for"] = expression or rule["expr"], wait
    (tmp_path / "spoilt.yml").write_text(yaml.safe_dump(document))
    unnoticed = []
    for case in cases["tests"]:
        if case["name"].endswith(part):
            one = {**cases, "rule_files": ["spoilt.yml"], "tests": [case]}
            (tmp_path / "cases.yml").write_text(yaml.safe_dump(one))
            if promtool("test", "rules", str(tmp_path / "cases.yml")).returncode == 0:
                unnoticed.append(case["name"])
    assert unnoticed == []


def test_rules_say_who_what_and_how_grave():
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith("."), rule["alert"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_rules_use_metrics_and_labels_that_exist(rule):
    assert wrong_names(rule["expr"]) == set()


def test_a_name_that_does_not_exist_is_seen():
    assert wrong_names('rate(cilium_nothing_total{cluster="x"}[5m])') == {"cilium_nothing_total"}
    assert wrong_names('sum by (colour) (wardmesh_agent_up{peer="x"})') == {"colour", "peer"}
    assert wrong_names("cilium_policy_implementation_delay_bucket") == set()
    assert wrong_names("cilium_policy_bucket") == {"cilium_policy_bucket"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_what_grafana_takes(path):
    assert complaints(json.loads(path.read_text())) == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_use_metrics_that_exist_and_queries_that_parse(path, tmp_path):
    document = json.loads(path.read_text())
    queries = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    queries += [
        choice["query"]["query"] for choice in document["templating"]["list"] if choice["type"] == "query"
    ]
    assert {name for query in queries for name in wrong_names(query)} == set()
    plain = [query.replace("$__rate_interval", "5m") for query in queries if "label_values" not in query]
    records = [{"record": f"q{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": records}]}))
    done = promtool("check", "rules", str(tmp_path / "queries.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_their_own_numbers_and_do_not_overlap(path):
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


SPOILT = {
    "a title that is a number": lambda d: d.update(title=7),
    "an unknown key": lambda d: d.update(colour="red"),
    "an unknown key of a panel": lambda d: d["panels"][0].update(hight=3),
    "panels that are no list": lambda d: d.update(panels={}),
    "a panel without a place": lambda d: d["panels"][0].update(gridPos="left"),
    "a width in words": lambda d: d["panels"][0]["gridPos"].update(w="wide"),
    "a threshold mode that does not exist": lambda d: d["panels"][0]["fieldConfig"]["defaults"][
        "thresholds"
    ].update(mode="sometimes"),
    "a query that is a number": lambda d: d["panels"][0]["targets"][0].update(expr=3),
    "an unknown key of a query": lambda d: d["panels"][0]["targets"][0].update(exprs="up"),
    "an option of another panel": lambda d: d["panels"][0]["options"].update(tooltips={}),
    "an unknown kind of variable": lambda d: d["templating"]["list"][0].update(type="guess"),
    "a variable's sort in words": lambda d: d["templating"]["list"][1].update(sort="up"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_wrong_dashboard_is_rejected(spoil):
    document = copy.deepcopy(json.loads(DASHBOARDS[0].read_text()))
    spoil(document)
    assert complaints(document)
