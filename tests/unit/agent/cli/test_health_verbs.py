# SPDX-License-Identifier: Apache-2.0
"""The service of checks over loopback, what status says of it, and the proof that something was encrypted."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_for

from wardmesh.api.server import Server
from wardmesh.cli import health_text, text, tunnel_proof
from wardmesh.cli import verdicts as verdicts_module
from wardmesh.cli.doctor_answers import checks_of
from wardmesh.cli.health_service import Health
from wardmesh.cli.state import health_of
from wardmesh.cli.tunnel_proof import Look, Prover
from wardmesh.cli.verdicts import Verdicts
from wardmesh.health import prober
from wardmesh.health.route import Way
from wardmesh.host.paths import Paths
from wardmesh.model.config import HealthConfig, parse_config, seconds_of
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.observe.metrics_snapshot import health_figures
from wardmesh.wireguard.backend import PeerState

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: closed}
spec:
  nodeSelector: {matchLabels: {node: h2}}
  ingress:
  - fromEndpoints: [{matchLabels: {node: h3}}]
"""


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def install(paths: Paths, count: int, generation: int = 1) -> None:
    """A map with members h1 (this host), h2, …; nothing is ever sent to their addresses."""
    members = [
        {"name": f"h{number}", "key": key(number), "addresses": [f"203.0.113.{number}"]}
        for number in range(1, count + 1)
    ]
    document: dict[str, Any] = {
        "format": 1,
        "generation": generation,
        "cluster": {"name": "default", "id": 1},
        "members": members,
    }
    paths.fleet.write_bytes(canonical({**document, "digest": digest_of(document)}) + b"\n")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path)
    for folder in (made.etc, made.key.parent, made.run, made.policies):
        folder.mkdir(parents=True, exist_ok=True)
    made.config.write_text("healthChecking: {enabled: true, interval: 1s}\nhostFirewall: {enabled: true}\n")
    made.key.with_suffix(".json").write_text(json.dumps({"publicKey": key(1)}))
    install(made, 3)
    return made


class _Check:
    """Stands for a check: the peers whose names are in `silent` do not answer."""

    silent: frozenset[str] = frozenset()

    def __init__(self, loop: Any, _pings: Any, record: Any, note: Any, done: Any, _port: int) -> None:
        alive = record.peer.name not in self.silent
        for address in record.addresses:
            error = "" if alive else "no answer"
            address.icmp.take([0.002 if alive else None] * 3, error)
            address.http.take([0.004 if alive else None], error)
        if alive:
            note(True, "icmp", 0.002)
        loop.at(loop.clock(), lambda: done(alive))


@pytest.fixture
def service(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[Health]:
    monkeypatch.setattr(prober, "Check", _Check)
    with socket.create_server(("127.0.0.1", 0)) as made:
        port = int(made.getsockname()[1])
    running = Health(paths, HealthConfig(True, 1.0), port=port)
    server = Server(paths.health, running.routes())
    running.start()
    thread = threading.Thread(target=running.loop.run, daemon=True)
    thread.start()
    yield running
    server.close()
    running.loop.stop()
    thread.join(10)
    running.close()


def reachable(paths: Paths, count: int) -> Any:
    found = health_of(paths) or {}
    return found if found.get("counts", {}).get("reachable") == count else None


@pytest.mark.usefixtures("service")
def test_the_service_checks_the_map_and_follows_it(paths: Paths) -> None:
    found = wait_for(lambda: reachable(paths, 2), "two are reachable")
    assert found["self"] == "h1" and found["interval"] == 1.0 and found["cycle"] == 1.0
    assert found["problems"] == []
    assert {row["name"]: row["latency"] for row in found["peers"]} == {"h2": 0.002, "h3": 0.002}
    figures = health_figures(found)
    assert {peer.state for peer in figures.peers} == {"reachable"} and figures.latencies[0][1] == "icmp"
    install(paths, 5, 2)
    wait_for(lambda: reachable(paths, 4), "four are reachable")
    paths.fleet.write_bytes(b"broken")
    told = wait_for(lambda: (health_of(paths) or {}).get("problems"), "a problem is told")
    assert "not JSON" in told[0] and reachable(paths, 4)  # whom it knows it goes on checking


@pytest.mark.usefixtures("service")
def test_status_names_who_does_not_answer(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Check, "silent", frozenset({"h2"}))
    (paths.policies / "closed.yaml").write_text(POLICY)

    def one_is_gone() -> Any:
        told = health_of(paths) or {}
        return told if told.get("counts", {}).get("unreachable") == 1 else None

    found = wait_for(one_is_gone, "one is gone")
    (line, *_rest) = health_text.cluster(found, verbose=True)
    assert line.startswith("Cluster health: 1/2 reachable") and "every peer once in 1s" in line
    rows = health_text.by_name(found)
    assert "denied by policy" in health_text.lines(rows["h2"])  # ICMP; HTTP is exempt, and dead
    assert "OK, RTT=2.000ms" in health_text.lines(rows["h3"])
    checks = checks_of(found)
    assert checks.unreachable == ("h2",) and checks.reachable == 1
    assert dict(checks.doubtful)["h3"].startswith("path ")  # no tunnel here
    assert checks_of(found, encryption=False).doubtful == ()


def test_status_where_the_service_is_off_or_does_not_answer(paths: Paths) -> None:
    assert "wardmesh-health" in (health_of(paths) or {})["problems"][0]
    assert health_text.cluster(health_of(paths), verbose=False)[0] == "Cluster health: not known"
    paths.config.write_text("")
    assert health_of(paths) is None and health_text.cluster(None, verbose=False) == []


def test_a_host_that_was_removed_from_the_map_stops_checking(paths: Paths, service: Health) -> None:
    wait_for(lambda: reachable(paths, 2), "two are reachable")
    paths.key.with_suffix(".json").write_text(json.dumps({"publicKey": key(77)}))
    wait_for(lambda: "in no fleet map" in " ".join((health_of(paths) or {})["problems"]), "it is told")
    assert (health_of(paths) or {})["peers"] == []
    assert not service._admits("203.0.113.2")


def test_probes_know_sooner_than_a_tunnel_that_somebody_is_gone() -> None:
    peer = {"address": "203.0.113.2", "name": "h2", "reachable": True}
    gone = {"state": "unreachable"}
    assert text._node(peer, 0.0, gone, health=False).endswith("Unreachable")
    assert text._node(peer, 0.0, {"state": "unknown"}, health=False).endswith(" Reachable")
    assert text._node({**peer, "reachable": False}, 0.0, None, health=False).endswith("Unreachable")


def test_verdicts_follow_the_files(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts_module, "LOOK", 0.0)
    verdicts = Verdicts(paths)
    assert verdicts.forbids("h2", "icmp") == ""
    (paths.policies / "closed.yaml").write_text(POLICY)
    assert "default deny" in verdicts.forbids("h2", "icmp") and verdicts.forbids("h2", "icmp6")
    assert verdicts.forbids("h2", "http") == "" and verdicts.forbids("h3", "icmp") == ""
    assert verdicts.of("h2", "22/tcp")[0] and not verdicts.of("h2", "80/tcp")[0]
    paths.config.write_text("hostFirewall: {enabled: true}\npolicyAuditMode: true\n")
    assert verdicts.forbids("h2", "icmp") == ""
    paths.fleet.write_bytes(b"broken")
    assert verdicts.forbids("h2", "icmp") == ""


# --- proof of encryption ---


def peer(rx: int, tx: int) -> PeerState:
    return PeerState("k", None, frozenset(), 0, 5.0, rx, tx)


@pytest.mark.parametrize(
    ("device", "grown", "packets", "encrypted"),
    [
        ("wardmesh_wg0", (348, 348), 3, True),
        ("wardmesh_wg0", (348, 347), 3, False),  # the answers came another way
        ("wardmesh_wg0", (0, 348), 3, False),
        ("eth0", (348, 348), 3, False),  # somebody else's traffic grew them
        ("wardmesh_wg0", (0, 0), 0, None),
        ("", (0, 0), 0, None),
    ],
)
def test_encrypted_is_what_the_counters_prove(
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    grown: tuple[int, int],
    packets: int,
    encrypted: Any,
) -> None:
    monkeypatch.setattr(tunnel_proof, "way_to", lambda _link, _address: Way(device))
    monkeypatch.setattr(tunnel_proof, "find_link", lambda _link, _name: None)
    monkeypatch.setattr(tunnel_proof.client, "call", lambda *_a, **_b: {"backend": ""})
    prover = Prover(paths)
    before, after = Look(peer(100, 100), 0), Look(peer(100 + grown[1], 100 + grown[0]), 0)
    found = prover.evidence("203.0.113.2", before, after, packets * 84, packets)
    assert found.encrypted is encrypted
    assert found.path == {"wardmesh_wg0": "tunnel", "eth0": "plain", "": "none"}[device]
    unknown = prover.evidence("203.0.113.2", Look(None, 0), Look(None, 0), 84, 1)
    assert unknown.encrypted is (None if device == "wardmesh_wg0" else False)


# --- configuration ---


@pytest.mark.parametrize(("words", "seconds"), [("10s", 10), ("1m30s", 90), ("1500ms", 1.5), ("1h", 3600)])
def test_intervals(words: str, seconds: float) -> None:
    assert seconds_of(words) == seconds
    held = parse_config(f"healthChecking: {{enabled: true, interval: {words}}}", "x")
    assert held.health == HealthConfig(True, seconds) and held.inactive == ()


@pytest.mark.parametrize("words", ["999ms", "0s", "2h", "ten", "10"])
def test_intervals_that_are_refused(words: str) -> None:
    with pytest.raises(WardmeshError, match=r"healthChecking\.interval"):
        parse_config(f"healthChecking: {{enabled: true, interval: '{words}'}}", "x")


def test_checks_are_off_unless_they_are_asked_for() -> None:
    assert parse_config("", "x").health == HealthConfig(False, 10.0)
