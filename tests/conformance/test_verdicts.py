# SPDX-License-Identifier: Apache-2.0
"""The verdict tables that came from Cilium's own engine: every verdict is equal, in both directions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from wardmesh.model.errors import WardmeshError
from wardmesh.policy.cases import Case, read_cases
from wardmesh.policy.documents import parse_document, parse_text, policy_set

TABLES = Path(__file__).parent / "tables"
SHARED = Path(__file__).parents[3] / "shared"
INVALID = json.loads((TABLES / "invalid.json").read_text())
# A word of each refused document that its error must hold: where the problem stands.
PLACES = {
    "no selector": "spec",
    "no spec": "spec",
    "port negative": "toPorts[0].ports[0].port",
    "protocol bogus": "toPorts[0].ports[0].protocol",
    "cidr garbage": "fromCIDR[0]",
    "cidr empty": "fromCIDR[0]",
    "cidrset except garbage": "fromCIDRSet[0].except[0]",
    "cidrset none": "fromCIDRSet[0]",
    "fromEntities with fromEndpoints": "spec.ingress[0]",
    "fromNodes with fromCIDR": "spec.ingress[0]",
    "toFQDNs with toEndpoints": "spec.egress[0]",
    "entity unknown": "fromEntities[0]",
    "icmp with toPorts": "icmps",
    "icmp type unknown name": "fields[0].type",
    "l7 on udp": "rules",
    "l7 port 0": "rules",
    "http bad regex method": "http[0].method",
    "fqdn bad chars": "toFQDNs[0].matchName",
    "toFQDNs on ingress deny-like field": "toFQDNs[0]",
    "selector In without values": "endpointSelector.matchExpressions[0].values",
    "selector bad label value": "endpointSelector.matchLabels.app",
    "named port too long": "ports[0].port",
    "l7proto without rules type mismatch": "rules.l7",
    "deny cidr bad": "egressDeny[0].toCIDR[0]",
    "ingress is map": "spec.ingress",
}


def cases(name: str) -> list[Case]:
    """The cases of a table."""
    return list(read_cases((TABLES / name).read_text(), name))


@pytest.mark.parametrize("name", ["semantics.jsonl", "verdicts.jsonl"])
def test_every_verdict_is_ciliums(name: str) -> None:
    found = cases(name)
    differences = [str(difference) for case in found for difference in case.differences()]
    assert differences == []
    assert sum(2 * len(case.queries) for case in found) > 4000


def test_a_wrong_verdict_would_be_seen() -> None:
    """Every expectation turned round: every one of them is a difference."""
    turned = {"allowed": "denied", "denied": "allowed"}
    for line in (TABLES / "semantics.jsonl").read_text().splitlines():
        data = json.loads(line)
        for query in data["queries"]:
            query.update(egress=turned[query["egress"]], ingress=turned[query["ingress"]])
        assert len(list(Case(data, "x").differences())) == 2 * len(data["queries"])


@pytest.mark.parametrize("entry", INVALID, ids=[entry["name"] for entry in INVALID])
def test_what_cilium_refuses_is_refused_with_its_place(entry: dict[str, object]) -> None:
    with pytest.raises(WardmeshError) as caught:
        for document in entry["policies"]:  # type: ignore[attr-defined]
            parse_document(document, "policies/x.yaml")
    assert PLACES[str(entry["name"])] in caught.value.where
    assert caught.value.where.startswith("policies/x.yaml: ")
    assert caught.value.what and caught.value.remedy


def test_every_published_example_loads() -> None:
    folder = SHARED / "conformance/examples"
    if not folder.is_dir():
        pytest.skip("../shared is absent: the published examples are not part of the project")
    files = sorted(folder.rglob("*.yaml"))
    policies = 0
    for path in files:
        for document in yaml.safe_load_all(path.read_text()):
            if document and str(document["apiVersion"]).startswith("cilium.io/"):
                policies += len(parse_document(document, str(path.relative_to(folder))))
    assert policies == 48


def test_every_policy_of_the_seeds_that_is_still_yaml_loads() -> None:
    """In four of the five documents the policies lost their indentation; these are fenced and whole."""
    if not (SHARED / "seeds").is_dir():
        pytest.skip("../shared is absent: the seed documents are not part of the project")
    fenced = [
        text
        for path in sorted((SHARED / "seeds").glob("*.txt"))
        for text in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL)
        if "cilium.io/v2" in text and "\n  ...\n" not in text
    ]
    assert len(fenced) >= 4
    for text in fenced:
        assert policy_set(parse_text(text, "seed")).policies, text
