# SPDX-License-Identifier: Apache-2.0
"""What preflight makes of a configuration and of the inventory's groups."""

from __future__ import annotations

from typing import Any

import pytest
from tests.loading import load

wanted = load("plugins/plugin_utils/_wanted.py")


@pytest.mark.parametrize(
    ("config", "port"),
    [
        ({}, 51871),
        ({"encryption": {"listenPort": 9}}, 9),
        ({"encryption.listenPort": 9}, 9),
        ({"encryption": {"mode": "strict"}}, 51871),
        ({"encryption": None}, 51871),
    ],
)
def test_a_key_is_found_nested_and_flat(config: dict[str, Any], port: int) -> None:
    assert wanted.setting(config, "encryption.listenPort", wanted.PORT) == port


@pytest.mark.parametrize(
    ("config", "observer", "observes"),
    [
        ({}, False, False),
        ({"hubble": {"enabled": "true"}}, True, True),
        ({"prometheus.enabled": True}, True, True),
        ({"healthChecking": {"enabled": True}}, False, True),
        ({"hubble": {"enabled": "no"}, "prometheus": {"port": 77}}, False, False),
    ],
)
def test_what_is_switched_on(config: dict[str, Any], observer: bool, observes: bool) -> None:
    """The checks of the peers are a service of the role, but need none of the observer's libraries."""
    assert wanted.is_on(config, *wanted.OBSERVING) is observer
    assert wanted.observes(config, False, {}) is observes


def test_a_relay_and_what_was_left_behind_are_work_for_the_role_observability() -> None:
    assert wanted.observes({}, True, {})
    assert wanted.observes({}, False, {"wardmesh-ui.service": "digest"})
    assert wanted.observes({}, False, {"hubble.crt": "digest"})
    assert not wanted.observes({}, False, {"wardmesh.service": "digest", "hubble.crt": ""})


@pytest.mark.parametrize(
    ("config", "follows"),
    [
        ({}, False),
        ({"etcd": {"endpoints": ["https://10.0.0.1:2379"]}}, True),
        ({"etcd.endpoints": ["https://10.0.0.1:2379"]}, True),
        ({"etcd": {"endpoints": []}}, False),
        ({"clustermesh": {"config": {"clusters": [{"name": "b", "address": "b:2379"}]}}}, True),
        ({"clustermesh": {"config": {"clusters": [{"name": "b"}]}}}, False),
        ({"clustermesh": {"config": {"clusters": None}}}, False),
    ],
)
def test_who_follows_a_store(config: dict[str, Any], follows: bool) -> None:
    assert wanted.follows_store(config) is follows


def test_every_host_is_asked_by_three_others() -> None:
    group = ["a", "b", "c", "d", "e"]
    asked = [name for own in group for name in wanted.neighbours(group, own)]
    assert all(asked.count(name) == 3 for name in group)
    assert wanted.neighbours(group, "d") == ["e", "a", "b"]
    assert wanted.neighbours(["a"], "a") == [] and wanted.neighbours([], "a") == []
    assert wanted.neighbours(["a", "b"], "a") == ["b"]
