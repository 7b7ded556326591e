# SPDX-License-Identifier: Apache-2.0
"""Whatever a file holds, the parser answers with rules or with an error of ours that names a place."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import fuzz

from wardmesh.model.errors import WardmeshError
from wardmesh.policy.documents import Policy, parse_document, parse_text, policy_set, refuse_later
from wardmesh.policy.files import parse_policies
from wardmesh.policy.reading import Place
from wardmesh.policy.selector import Selector, index_labels, parse_selector

WORDS = st.sampled_from(
    [
        "app",
        "env",
        "tier",
        "vm:app",
        "k8s:app",
        "any:app",
        "reserved:remote-node",
        "web",
        "db",
        "In",
        "NotIn",
        "Exists",
        "in",
        "x",
        "y",
        "80",
        "0",
        "65536",
        "-1",
        "TCP",
        "UDP",
        "icmp",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "::/0",
        "fd00::/64",
        "world",
        "all",
        "cluster",
        "http",
        "EchoRequest",
        "IPv4",
        "IPv6",
    ]
)
FIELDS = st.sampled_from(
    [
        "endpointSelector",
        "nodeSelector",
        "ingress",
        "egress",
        "ingressDeny",
        "egressDeny",
        "enableDefaultDeny",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "fromEndpoints",
        "toEndpoints",
        "fromCIDR",
        "fromCIDRSet",
        "cidr",
        "except",
        "toPorts",
        "ports",
        "port",
        "endPort",
        "protocol",
        "icmps",
        "fields",
        "type",
        "family",
        "fromEntities",
        "fromNodes",
        "toFQDNs",
        "rules",
        "http",
        "dns",
    ]
)
SCALARS = st.one_of(WORDS, st.integers(-2, 70000), st.booleans(), st.none(), st.text(max_size=8))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(FIELDS, WORDS), inner, max_size=4)
    ),
    max_leaves=25,
)


def document(spec: Any) -> dict[str, Any]:
    """A policy of this spec."""
    kind = "CiliumClusterwideNetworkPolicy"
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


@fuzz(400)
@given(TREES)
def test_any_tree_gives_rules_or_a_placed_error(spec: Any) -> None:
    try:
        found = parse_document(document(spec), "x.yaml")
    except WardmeshError as error:
        assert error.where.startswith("x.yaml") and error.what and error.remedy
    else:
        assert isinstance(found[0], Policy) and found[0].rules


@fuzz(200)
@given(st.text(max_size=200))
def test_any_text_gives_documents_or_a_placed_error(text: str) -> None:
    try:
        parse_text(text, "x.yaml")
    except WardmeshError as error:
        assert error.where.startswith("x.yaml")


VALUES = st.sampled_from(["a", "b", "c"])
EXPRESSIONS = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["app", "vm:app", "k8s:app", "any:env", "env"]),
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(VALUES, min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["app", "vm:app", "k8s:app", "env"]),
            "operator": st.sampled_from(["Exists", "DoesNotExist"]),
        }
    ),
)
LABELS = st.frozensets(
    st.sampled_from([f"{s}:{k}={v}" for s in ("vm", "k8s") for k in ("app", "env") for v in "ab"])
)


def holds(expression: dict[str, Any], labels: frozenset[str]) -> bool:
    """The meaning of one expression, written a second time from the Kubernetes documentation."""
    source, _colon, key = str(expression["key"]).rpartition(":")
    held = [
        label.partition("=")[2]
        for label in labels
        if label.partition("=")[0] == f"{source}:{key}"
        or (source in ("", "any") and label.partition("=")[0].partition(":")[2] == key)
    ]
    if expression["operator"] == "Exists":
        return bool(held)
    if expression["operator"] == "DoesNotExist":
        return not held
    inside = any(value in expression["values"] for value in held)
    return inside if expression["operator"] == "In" else not inside


def selector(expressions: list[dict[str, Any]]) -> Selector:
    """A parsed selector."""
    return parse_selector(Place({"matchExpressions": expressions}, "x"))


@settings(max_examples=300, deadline=None)
@given(st.lists(EXPRESSIONS, max_size=3), LABELS)
def test_a_selector_means_what_kubernetes_says(
    expressions: list[dict[str, Any]], labels: frozenset[str]
) -> None:
    # One value for each key and source, as on a real host.
    one = frozenset({label.partition("=")[0]: label for label in sorted(labels)}.values())
    expected = all(holds(expression, one) for expression in expressions)
    assert selector(expressions).matches(index_labels(one)) is expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1", "x.yaml:"),
        ("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, name: b}\n", "x.yaml:3:"),
        ("- 1", "x.yaml"),
        (
            yaml.safe_dump_all([document({"endpointSelector": {}, "ingress": [{}]}), {"kind": "Pod"}]),
            "document 2",
        ),
        (json.dumps(document({"endpointSelector": {}, "ingres": []})), "spec.ingres"),
    ],
)
def test_broken_files(text: str, place: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        parse_text(text, "x.yaml")
    assert place in caught.value.where


def test_a_misspelt_field_names_the_nearest() -> None:
    with pytest.raises(WardmeshError, match=r"did you mean ingress\?"):
        parse_document(document({"endpointSelector": {}, "ingres": []}), "x.yaml")


def test_two_documents_of_one_name_are_refused() -> None:
    one = parse_document(document({"endpointSelector": {}, "ingress": [{}]}), "a.yaml")
    two = parse_document(document({"endpointSelector": {}, "ingress": [{}]}), "b.yaml")
    with pytest.raises(WardmeshError, match=r"the other is in a\.yaml"):
        policy_set([*one, *two])


LATER = {
    "rules.http": {
        "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}]}]
    },
    "toFQDNs": {"egress": [{"toFQDNs": [{"matchName": "example.org"}]}]},
    "toServices": {"egress": [{"toServices": [{"k8sService": {"serviceName": "a", "namespace": "b"}}]}]},
    "fromGroups": {"ingress": [{"fromGroups": [{"aws": {}}]}]},
    "authentication": {"ingress": [{"fromEndpoints": [{}], "authentication": {"mode": "required"}}]},
    "terminatingTLS": {
        "ingress": [{"toPorts": [{"ports": [{"port": "443"}], "terminatingTLS": {"secret": {"name": "a"}}}]}]
    },
}


@pytest.mark.parametrize("feature", sorted(LATER))
def test_what_comes_later_is_valid_and_refused_by_apply(feature: str) -> None:
    held = policy_set(parse_document(document({"endpointSelector": {}, **LATER[feature]}), "x.yaml"))
    with pytest.raises(WardmeshError, match=feature) as caught:
        refuse_later(held)
    assert "x.yaml: spec." in caught.value.where


def test_a_file_that_did_not_change_is_not_read_again() -> None:
    """Of a set with many files mostly one changes: the documents of the others stay the same objects."""
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: NAME}\n"
        "spec: {nodeSelector: {}, ingress: [{fromEntities: [cluster]}]}\n"
    )
    one, two, other = (text.replace("NAME", name) for name in ("one", "two", "other"))
    before = parse_policies([("a.yaml", one), ("b.yaml", two)], "set").policies
    after = parse_policies([("a.yaml", one), ("b.yaml", other)], "set").policies
    assert after[0] is before[0] and [policy.name for policy in after] == ["one", "other"]
    assert parse_policies([("a.yaml", one)], "elsewhere").policies[0].source == "elsewhere/a.yaml"


@pytest.mark.parametrize("text", ["", "\n", "# app: web\n", "---\n---\n", "kind: List\nitems: []\n"])
def test_a_file_without_a_policy_is_refused(text: str) -> None:
    """Cut short by a full disk or a power cut, it would open what its policy closes."""
    with pytest.raises(WardmeshError) as told:
        parse_text(text, "web.yaml")
    assert "web.yaml" in str(told.value) and "no policy" in str(told.value)
