# SPDX-License-Identifier: Apache-2.0
"""The observer put together: from a source to a client, with new fleet maps, modes and gaps on the way."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.agent.observe.support import HOSTS, Client, event, fleet_bytes, namer, request
from tests.waiting import eventually

from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.observe import service as module
from wardmesh.observe.flow import EventList, Events, FlowEvent
from wardmesh.observe.getflows import Encoder
from wardmesh.observe.jsonform import to_json
from wardmesh.observe.proto import message
from wardmesh.observe.service import Observer

REPO = Path(__file__).parents[4]


class Source:
    """Events that a test puts in."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[FlowEvent] = queue.SimpleQueue()
        self.gone = 0
        self.closed = False

    def poll(self, timeout: float) -> Sequence[Events]:
        found: list[FlowEvent] = []
        with contextlib.suppress(queue.Empty):
            found.append(self.events.get(timeout=timeout))
            while True:
                found.append(self.events.get_nowait())
        return [EventList(found)] if found else []

    def lost(self) -> int:
        return self.gone

    def close(self) -> None:
        self.closed = True


def host(root: Path, config: str = "hubble: {enabled: true}\n") -> Paths:
    paths = Paths(root)
    for folder in (paths.etc, paths.state):
        folder.mkdir(parents=True)
    paths.config.write_text(config)
    paths.fleet.write_bytes(fleet_bytes())
    return paths


@contextlib.contextmanager
def running(paths: Paths) -> Iterator[tuple[Observer, Source, Client]]:
    source = Source()
    observer = Observer(paths, source, lambda _fleet: "db1")
    thread = threading.Thread(target=observer.run)
    thread.start()
    try:
        with grpc.insecure_channel(f"unix:{paths.hubble}") as channel:
            yield observer, source, Client(channel)
    finally:
        observer.stop()
        thread.join(10)
        observer.close()
        assert source.closed and not paths.hubble.exists()


def names(answers: Any) -> list[str]:
    return [answer.flow.source.pod_name for answer in answers if answer.HasField("flow")]


def test_events_reach_a_client_in_the_order_of_time(tmp_path: Path) -> None:
    with running(host(tmp_path)) as (observer, source, client):
        for number in (3, 1, 2):
            source.events.put(event(number))
        assert eventually(lambda: observer.ring.seen == 3)
        got = [answer.flow.time.ToMilliseconds() % 1000 for answer in client.GetFlows(request())]
        assert sorted(got) == [1, 2, 3]


def test_what_the_kernel_lost_is_told(tmp_path: Path) -> None:
    with running(host(tmp_path)) as (_observer, source, client):
        source.gone = 12
        assert eventually(lambda: any(a.HasField("lost_events") for a in client.GetFlows(request())))
        (answer,) = client.GetFlows(request())
        assert (answer.lost_events.num_events_lost, answer.lost_events.source) == (12, 1)


def test_a_new_fleet_map_gives_new_names_and_keeps_old_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    paths = host(tmp_path)
    with running(paths) as (observer, source, client):
        source.events.put(event(1))
        assert eventually(lambda: observer.ring.seen == 1)
        renamed = {("shop1" if name == "web1" else name): row for name, row in HOSTS.items()}
        paths.fleet.write_bytes(fleet_bytes(renamed, generation=2))
        assert eventually(lambda: "shop1" in observer.namer.names.by_name)
        source.events.put(event(2))
        assert eventually(lambda: observer.ring.seen == 2)
        assert names(client.GetFlows(request())) == ["web1", "shop1"]
        assert "lab/shop1" in observer.roster.peers


def test_a_broken_fleet_map_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    monkeypatch.setattr(module, "_AFTER_ERROR", 0.01)
    paths = host(tmp_path)
    with running(paths) as (observer, source, client):
        paths.fleet.write_bytes(b"{")
        source.events.put(event(1))
        assert eventually(lambda: names(client.GetFlows(request())) == ["web1"])
        assert "web1" in observer.namer.names.by_name


def test_strict_mode_opens_the_port_to_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    plans: list[bool] = []
    real = module.plan

    def watched(listen: Any, tls: Any, own: Any, *, sealed: bool) -> Any:
        plans.append(sealed)
        assert [str(address) for address in own] == ["10.0.0.11"]
        return real(listen, tls, (), sealed=sealed)

    monkeypatch.setattr(module, "plan", watched)
    paths = host(tmp_path, "hubble: {enabled: true, listenAddress: ':0'}\n")
    with running(paths):
        assert plans == [False]
        paths.mode.write_text(json.dumps({"mode": "strict", "sealed": []}))
        assert eventually(lambda: plans[-1])


@pytest.mark.parametrize("state", ["", "{", "[]", '{"mode": "prefer"}', '{"mode": 5}'])
def test_a_state_that_cannot_be_read_opens_nothing(tmp_path: Path, state: str) -> None:
    paths = host(tmp_path)
    paths.mode.write_text(state)
    assert not module.is_sealed(paths)


def test_a_wrong_configuration_is_one_error(tmp_path: Path) -> None:
    paths = host(tmp_path, "hubble: {eventBufferCapacity: 5}\n")
    with pytest.raises(WardmeshError):
        Observer(paths, Source(), lambda _fleet: "")


def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    first = host(tmp_path / "a", "hubble: {enabled: true, listenAddress: '127.0.0.1:0'}\n")
    with running(first):
        pass
    server = grpc.server(__import__("concurrent.futures").futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        second = host(tmp_path / "b", f"hubble: {{enabled: true, listenAddress: '127.0.0.1:{port}'}}\n")
        with pytest.raises(WardmeshError) as caught:
            Observer(second, Source(), lambda _fleet: "")
        assert str(port) in str(caught.value)
    finally:
        server.stop(0)


def test_the_process_serves_a_file_and_stops_by_a_signal(tmp_path: Path) -> None:
    paths = host(tmp_path)
    file = tmp_path / "flows.json"
    made, encoder = namer(), Encoder(lambda: "lab/db1")
    file.write_text("\n".join(to_json(encoder.message(made.flow(event(n)), None)) for n in range(5)))
    process = subprocess.Popen(
        [sys.executable, "-m", "wardmesh", "--root", str(tmp_path), "observer", "--replay", str(file)],
        env={**os.environ, "PYTHONPATH": str(REPO / "agent")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert eventually(paths.hubble.exists)
        with grpc.insecure_channel(f"unix:{paths.hubble}") as channel:
            client = Client(channel)
            assert eventually(lambda: len(names(client.GetFlows(request(), wait_for_ready=True))) == 5)
            status = client.ServerStatus(message("observer.ServerStatusRequest")())
            assert status.seen_flows == 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, process.communicate()[1]
    finally:
        process.kill()
        process.communicate()
    assert not paths.hubble.exists()


def test_without_the_kernels_maps_the_observer_says_so(tmp_path: Path) -> None:
    host(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "wardmesh", "--root", str(tmp_path), "observer"],
        env={**os.environ, "PYTHONPATH": str(REPO / "agent")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "the firewall is not in the kernel" in done.stderr


def test_observing_that_is_off_says_so(tmp_path: Path) -> None:
    host(tmp_path, "hubble: {enabled: false}\n")
    done = subprocess.run(
        [sys.executable, "-m", "wardmesh", "--root", str(tmp_path), "observer"],
        env={**os.environ, "PYTHONPATH": str(REPO / "agent")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78 and "hubble.enabled" in done.stderr


def test_the_relays_process_serves_and_stops_by_a_signal(tmp_path: Path) -> None:
    paths = host(tmp_path)
    paths.fleet.write_bytes(fleet_bytes({}))  # nobody is asked: tests send nothing beyond loopback
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        port = link.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "wardmesh", "--root", str(tmp_path), "relay", "--listen", f"127.0.0.1:{port}"],
        env={**os.environ, "PYTHONPATH": str(REPO / "agent")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(20)
            status = Client(channel).ServerStatus(message("observer.ServerStatusRequest")())
            assert status.num_unavailable_nodes.value == 0 and status.uptime_ns > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, process.communicate()[1]
    finally:
        process.kill()
        process.communicate()


def test_flows_are_written_to_a_file_where_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "out" / "flows.log"
    config = f"hubble: {{enabled: true, export: {{static: {{enabled: true, filePath: {file}}}}}}}\n"
    with running(host(tmp_path, config)) as (_observer, source, _client):
        source.events.put(event(1))
        assert eventually(lambda: file.exists() and "\n" in file.read_text())
    assert json.loads(file.read_text())["flow"]["source"]["pod_name"] == "web1"


def test_a_wrong_filter_of_the_file_stops_the_start_before_anything_listens(tmp_path: Path) -> None:
    paths = host(tmp_path, "hubble: {export: {static: {enabled: true, allowList: ['{']}}}\n")
    with pytest.raises(WardmeshError):
        Observer(paths, Source(), lambda _fleet: "")
    assert not paths.hubble.exists()
