# SPDX-License-Identifier: Apache-2.0
"""config.yaml: what loads, what is refused and how clearly."""

from __future__ import annotations

import pytest

from wardmesh.model.config import PortException, parse_config
from wardmesh.model.errors import WardmeshError

REFUSED = [
    ("unknown key names the nearest", "encryption: {enable: true}", "did you mean encryption.enabled"),
    ("wrong type", "encryption: {enabled: 7}", "encryption.enabled: expected true or false"),
    ("out of range", "cluster: {id: 256}", "cluster.id: 256 is outside 1..255"),
    ("not a choice", "encryption: {mode: loose}", "not one of prefer, strict"),
    ("duplicate key", "mtu: 1400\nmtu: 1500", "duplicate key 'mtu'"),
    ("broken YAML has line and column", "a: [1", "file.yaml:1:"),
    ("alias", "labels: &a {x: y}\nresources: *a", "aliases"),
    ("a list where a map belongs", "- 1", "document: expected a map"),
    ("not a duration", "healthChecking: {interval: soon}", "no duration"),
    ("protocol of an exception", "encryption: {exceptions: [{protocol: GRE}]}", "protocol 'GRE'"),
]


@pytest.mark.parametrize(("text", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(text: str, words: str) -> None:
    with pytest.raises(WardmeshError) as caught:
        parse_config(text, "file.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("file.yaml")
    assert caught.value.remedy


def test_every_problem_at_once() -> None:
    with pytest.raises(WardmeshError) as caught:
        parse_config("cluster: {id: 0}\nnonsense: 1\nmtu: tall", "f")
    for words in ("cluster.id", "nonsense", "mtu"):
        assert words in caught.value.why


def test_defaults_and_values() -> None:
    assert parse_config("", "f").encryption.mode == "strict"
    config = parse_config(
        "cluster: {name: a, id: 3}\nprometheus: {port: '9962'}\nk8s: {enabled: true}\n"
        "encryption: {exceptions: [{protocol: tcp, port: 22}]}\nlog: {level: warn}",
        "f",
    )
    assert (config.cluster.name, config.cluster.id, config.log_level) == ("a", 3, "warning")
    assert config.encryption.exceptions == (PortException(6, 22),)
    assert config.inactive == ("k8s.enabled",)


def test_ipsec_is_named_as_inactive_and_never_means_plain() -> None:
    config = parse_config("encryption: {enabled: true, type: ipsec}", "f")
    assert config.encryption.enabled
    assert "encryption.type" in config.inactive
