# SPDX-License-Identifier: Apache-2.0
"""The whole way: real etcd, the agent's child process, its file, and an engine over fakes of the kernel."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from etcd_server import Etcd
from tests.loading import load
from tests.unit.agent.discovery.samples import item, key
from tests.waiting import wait_for

from wardmesh.cli.store_reports import from_store
from wardmesh.daemon import discovering, inputs
from wardmesh.daemon.discovering import Discovering
from wardmesh.daemon.engine import Engine
from wardmesh.discovery.keys import state_key
from wardmesh.health.drift import PARTS, Report, compare, document, judge_all
from wardmesh.health.showing import Shown, health_document
from wardmesh.host.files import write_atomic
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.model.labels import labels_document

fakes = load("tests/unit/agent/daemon/fakes.py")


def at_once(job: Callable[[], Any]) -> Future[Any]:
    """Instead of the worker: in the calling thread."""
    future: Future[Any] = Future()
    try:
        future.set_result(job())
    except Exception as error:
        future.set_exception(error)
    return future


class Host:
    """A relocated host with an engine, which is h1 and knows nobody but by the store."""

    def __init__(self, root: Path, etcd: Etcd) -> None:
        self.paths = fakes.make_host(root, None)
        document = {
            "format": 1,
            "generation": 1,
            "cluster": {"name": "c", "id": 7},
            "members": [item(1, key=fakes.OWN_KEY), item(2)],
        }
        self.paths.fleet.write_bytes(canonical({**document, "digest": digest_of(document)}))
        servers = [f"http://127.0.0.1:{member.client}" for member in etcd.members]
        config = {"cluster": {"name": "c", "id": 7}, "etcd": {"endpoints": servers, "lease": "5s"}}
        self.paths.config.write_text(json.dumps(config))
        self.engine = Engine(self.paths, fakes.FakeMachine())
        self.engine.first_pass()
        self.discovering = Discovering(
            self.paths, lambda: self.engine.inputs, self.engine.rediscover, at_once
        )
        self.discovering.start()

    def peers(self) -> set[str]:
        assert self.engine.mesh is not None
        return {member.name for member in self.engine.mesh.others}

    def has(self, *names: str) -> None:
        wait_for(lambda: self.peers() == set(names), f"peers {names}, there are {self.peers()}")

    @property
    def process(self) -> int:
        child = self.discovering._process
        assert child is not None
        return child.pid

    def registered(self) -> None:
        wait_for(lambda: self.discovering.state.get("registered"), f"registered: {self.discovering.state}")


@pytest.fixture
def host(tmp_path: Path, etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(discovering, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(discovering, "LOOK", 0.1)
    # The store is on loopback, but this host shall not count as one that serves it.
    monkeypatch.setattr(inputs, "serves_here", lambda _settings, _addresses: False)
    made = Host(tmp_path / "host", etcd)
    yield made
    made.discovering.close()


def test_members_of_the_store_become_peers_and_go_again(host: Host, etcd: Etcd) -> None:
    host.registered()
    host.has("h2")
    other = Agent(3, etcd.settings()).start()
    host.has("h2", "h3")
    other.knows(1, 3)
    assert other.roll.claims["h1"].member.key == fakes.OWN_KEY
    other.end()
    host.has("h2")


def test_labels_added_by_hand_reach_the_others_and_come_back(host: Host, etcd: Etcd) -> None:
    other = Agent(3, etcd.settings()).start()
    other.knows(1, 3)
    host.paths.labels.write_bytes(labels_document({"app": "web"}))
    wait_for(lambda: other.roll.claims["h1"].member.labels == {"app": "web"}, "the label arrives")
    wait_for(lambda: host.engine.mesh and host.engine.mesh.own.labels == {"app": "web"}, "and counts here")
    host.paths.labels.write_text("garbage")
    other.labels = {"app": "db"}
    wait_for(
        lambda: any(m.name == "h3" and m.labels == {"app": "db"} for m in host.engine.mesh.others),
        "the other's label arrives",
    )
    assert other.roll.claims["h1"].member.labels == {"app": "web"}
    other.end()


def test_a_record_that_claims_anothers_address_or_key_is_refused(host: Host, etcd: Etcd) -> None:
    thieves = [
        Agent(4, etcd.settings(), addresses=["10.0.0.2"], endpoint="10.0.0.4:51871").start(),
        Agent(5, etcd.settings(), key=key(2)).start(),
        Agent(2, etcd.settings(), key=key(6)).start(),
    ]
    wait_for(lambda: len(host.engine.inputs.refused) == 3, "all are refused")
    assert {item.name for item in host.engine.inputs.refused} == {"h2", "h4", "h5"}
    host.has("h2")
    assert host.engine.mesh is not None
    assert host.engine.mesh.others[0].key == key(2)
    for thief in thieves:
        thief.end()


def test_a_host_that_runs_the_store_writes_what_other_clusters_read(host: Host, etcd: Etcd) -> None:
    wait_for(lambda: host.discovering.state.get("publishing"), f"it publishes: {host.discovering.state}")
    wanted = {"cilium/state/ip/v1/default/10.0.0.1", "cilium/state/ip/v1/default/10.0.0.2"}
    wanted |= {"cilium/cluster-config/c", "cilium/.heartbeat", "cilium/state/nodes/v1/c/h1"}
    wait_for(lambda: wanted <= set(etcd.keys()), f"all is there: {etcd.keys()}")


def test_a_process_that_is_killed_is_started_again_and_loses_nobody(host: Host, etcd: Etcd) -> None:
    other = Agent(3, etcd.settings()).start()
    host.has("h2", "h3")
    before = host.process
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: host.discovering._process and host.process != before, "another process")
    host.registered()
    assert host.peers() == {"h2", "h3"}
    fourth = Agent(4, etcd.settings()).start()
    host.has("h2", "h3", "h4")
    other.end()
    fourth.end()


def test_a_start_without_the_store_keeps_who_was_known(host: Host, etcd: Etcd) -> None:
    other = Agent(3, etcd.settings()).start()
    host.has("h2", "h3")
    host.discovering.close()
    etcd.end()
    again = Engine(host.paths, fakes.FakeMachine())
    again.first_pass()
    follower = Discovering(host.paths, lambda: again.inputs, again.rediscover, at_once)
    follower.start()
    wait_for(lambda: follower.state.get("problem"), "it says that the store is away")
    assert {member.name for member in again.mesh.others} == {"h2", "h3"} if again.mesh else False
    follower.close()
    other.end()


def test_what_a_host_shows_of_itself_is_in_the_store_for_as_long_as_its_lease(host: Host, etcd: Etcd) -> None:
    other = Agent(3, etcd.settings())
    other.follower.shown = lambda: b"another format"
    other.start()
    host.has("h2", "h3")
    host.registered()
    parts = tuple(compare(name, {"a": name}, {"a": "b" if name == "peers" else name}) for name in PARTS)
    row = {
        "name": "h2",
        "state": "unreachable",
        "path": "tunnel",
        "latency": None,
        "loss": 1.0,
        "jitter": None,
    }
    health = health_document({"peers": [row], "counts": {}})
    write_atomic(host.paths.shown, Shown().of(document(Report("h1", parts)), health, 0.0))
    wait_for(lambda: {state_key("c", f"h{n}") for n in (1, 3)} <= set(states(etcd)), f"both: {states(etcd)}")
    assert host.engine.mesh is not None
    reports, peers = from_store(host.paths, host.engine.mesh.fleet)
    found = {item.host: item for item in judge_all(reports, {})}
    assert set(found["h1"].reasons) == {"peers"} and peers["h1"]["h2"]["state"] == "unreachable"
    assert "wrote nothing" in found["h2"].words() and "cannot be read" in found["h3"].words()
    assert host.discovering.state["showing"] == ""
    other.end()
    host.discovering.close()
    wait_for(lambda: not states(etcd), "they go with the leases")


def states(etcd: Etcd) -> list[str]:
    return etcd.ctl("get", "wardmesh/v1/c/state/", "--prefix", "--keys-only").split()


def test_the_process_ends_with_the_agent_and_with_the_configuration(host: Host) -> None:
    host.registered()
    pid = host.process
    host.paths.config.write_text("cluster: {name: c, id: 7}\n")
    host.engine.reload()
    wait_for(lambda: host.discovering._process is None, "no process without a store")
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
    assert host.peers() == {"h2"}
