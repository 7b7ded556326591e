# SPDX-License-Identifier: Apache-2.0
"""What the agent counts about itself."""

from __future__ import annotations

import logging

import pytest
from tests.unit.agent.daemon.fakes import FakeMachine, make_host, map_bytes

from wardmesh.daemon.engine import Engine
from wardmesh.daemon.figures import BUCKETS, Delays, changed_at
from wardmesh.daemon.log import COUNTED, LOG, LevelCounter, setup_log
from wardmesh.daemon.view import View

POLICY = """apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: a}
spec: {endpointSelector: {}, ingress: [{fromEntities: [cluster]}]}
"""


def test_durations_fall_into_cumulative_buckets():
    delays = Delays(lambda: 0.0)
    for seconds in (0.001, 0.01, 0.03, 4.0, 99.0):
        delays.add(seconds)
    found = delays.as_dict()
    counts = dict(map(tuple, found["buckets"]))
    assert list(counts) == list(BUCKETS)
    assert (counts[0.01], counts[0.025], counts[0.05], counts[5.0], counts[30.0]) == (2, 2, 3, 4, 4)
    assert found["count"] == 5
    assert found["sum"] == pytest.approx(103.041)


def test_what_fails_is_not_counted():
    now = iter([1.0, 3.0, 10.0])
    delays = Delays(lambda: next(now))
    with delays.measured():
        pass
    with pytest.raises(ValueError, match="no"), delays.measured():
        raise ValueError("no")
    assert (delays.as_dict()["count"], delays.as_dict()["sum"]) == (1, 2.0)


def test_warnings_and_errors_of_the_log_are_counted_once(capsys):
    setup_log("text", "info")
    setup_log("json", "info")
    before = dict(COUNTED.counts)
    LOG.info("fine")
    LOG.warning("hm")
    LOG.error("no")
    LOG.critical("no!")
    assert COUNTED.counts == {"warning": before["warning"] + 1, "error": before["error"] + 2}
    assert sum(isinstance(item, LevelCounter) for item in LOG.filters) == 1
    LOG.handlers.clear()
    LOG.setLevel(logging.NOTSET)


def test_the_time_of_a_file_that_is_not_there_is_zero(tmp_path):
    assert changed_at(tmp_path / "none") == 0
    (tmp_path / "some").write_text("x")
    assert changed_at(tmp_path / "some") > 1e9


def test_status_holds_the_figures(tmp_path):
    paths = make_host(tmp_path, map_bytes(3, ("node1", "node2")))
    paths.config.write_text("cluster: {name: test, id: 1}\nhostFirewall: {enabled: true}\n")
    paths.policies.mkdir(parents=True)
    (paths.policies / "a.yaml").write_text(POLICY)
    engine = Engine(paths, FakeMachine())
    view = View(engine)
    assert view.status()["figures"]["bootstrapSeconds"] is None
    engine.first_pass()
    engine.reconcile()
    view.bootstrap_seconds = 1.5
    found = view.status()["figures"]
    assert found["bootstrapSeconds"] == 1.5
    assert found["policyDelay"]["count"] == 1  # a pass that changes nothing is no change of policy
    assert found["keySince"] > 1e9
    assert found["mapSince"] > 1e9
    assert set(found["log"]) == {"warning", "error"}
