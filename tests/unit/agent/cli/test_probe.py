# SPDX-License-Identifier: Apache-2.0
"""wardmesh ping and wardmesh connectivity test with pretended networks: words, JSON, status, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.cli.test_health_verbs import POLICY, install, key

from wardmesh.cli import main as cli
from wardmesh.cli import probe, tunnel_proof
from wardmesh.cli.tunnel_proof import Look
from wardmesh.health.reach import OPEN, SILENT, Pinged
from wardmesh.health.route import Way
from wardmesh.host.paths import Paths
from wardmesh.wireguard.backend import PeerState

Run = Callable[..., "tuple[int, str]"]


class World:
    """device: where routes lead; dark: who answers nothing; counts: whether the tunnel's counters grow."""

    device = "wardmesh_wg0"
    dark: frozenset[str] = frozenset()
    counts = True
    grown = 0

    def look(self, _prover: Any, _key: str) -> Look:
        self.grown += 100_000 if self.counts else 0
        return Look(PeerState("k", None, frozenset(), 0, 5.0, self.grown, self.grown), 0)

    def ping(self, address: str, count: int, *, size: int = 0, **_other: Any) -> Pinged:
        return Pinged((None if address in self.dark else 0.001,) * count, size or 84)

    def connect(self, address: str, _port: int) -> tuple[str, float]:
        return (SILENT, 2.0) if address in self.dark else (OPEN, 0.001)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(tunnel_proof.Prover, "look", lambda prover, key: made.look(prover, key))
    monkeypatch.setattr(tunnel_proof.Prover, "way", lambda _prover, _address: Way(made.device, 1420))
    monkeypatch.setattr(tunnel_proof.client, "call", lambda *_a, **_b: {"backend": ""})
    monkeypatch.setattr(probe.reach, "ping", made.ping)
    monkeypatch.setattr(probe.reach, "connect", made.connect)
    monkeypatch.setattr(probe.reach, "path_mtu", lambda _address, largest: largest)
    return made


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    paths = Paths(tmp_path)
    for folder in (paths.etc, paths.key.parent, paths.run, paths.policies):
        folder.mkdir(parents=True, exist_ok=True)
    paths.config.write_text("healthChecking: {enabled: true}\nhostFirewall: {enabled: true}\n")
    paths.key.with_suffix(".json").write_text(json.dumps({"publicKey": key(1)}))
    install(paths, 3)

    def call(*words: str) -> tuple[int, str]:
        status = cli.main(["--root", str(tmp_path), *words])
        return status, capsys.readouterr().out

    return call


@pytest.mark.usefixtures("world")
def test_ping_says_everything(run: Run) -> None:
    status, said = run("ping", "h2", "-c", "3")
    assert status == 0
    for word in ("h2 (203.0.113.2): path tunnel (wardmesh_wg0", "encrypted:  yes", "3 sent, 3 answered"):
        assert word in said
    assert "path MTU:   1420" in said and "1.000ms / 1.000ms / 1.000ms" in said
    status, said = run("ping", "203.0.113.3", "-o", "json")
    assert status == 0 and json.loads(said)["member"] == "h3"


def test_a_ping_past_the_tunnel_is_not_called_encrypted(run: Run, world: World) -> None:
    world.device = "eth0"
    assert json.loads(run("ping", "h2", "--json")[1])["encrypted"] is False
    world.device, world.counts = "wardmesh_wg0", False
    said = json.loads(run("ping", "h2", "--json")[1])
    assert said["encrypted"] is False and said["path"] == "tunnel"


def test_a_silent_member_is_a_failure_with_a_reason(run: Run, world: World, tmp_path: Path) -> None:
    world.dark = frozenset({"203.0.113.2"})
    status, said = run("ping", "h2", "-o", "json")
    assert status == 1 and "host is down" in json.loads(said)["problem"]
    (Paths(tmp_path).policies / "closed.yaml").write_text(POLICY)
    assert "policy denies ICMP" in run("ping", "h2")[1]
    world.device = ""
    (Paths(tmp_path).policies / "closed.yaml").unlink()
    assert "no route to 203.0.113.2" in run("ping", "h2")[1]


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("ping", "h22"), "did you mean h2"),
        (("ping", "h1"), "another member"),
        (("ping", "192.0.2.1"), "wardmesh fleet show"),
        (("ping", "h2", "-c", "0"), "1 to 1000"),
        (("connectivity", "test", "--port", "99999"), "5432/tcp"),
        (("connectivity", "test", "--port", "53/udp"), "5432/tcp"),
        (("connectivity", "test", "nobody"), "fleet show"),
        (("connectivity", "test", "--plan", "/nowhere"), "plan"),
    ],
)
def test_wrong_words_are_refused_with_a_remedy(run: Run, words: tuple[str, ...], remedy: str) -> None:
    status, said = run(*words, "-o", "json")
    assert status == 1 and remedy in json.loads(said)["error"]["remedy"]


def test_a_table_of_all_others(run: Run, world: World) -> None:
    status, said = run("connectivity", "test", "--port", "5432", "--port", "4240/tcp")
    assert status == 0, said
    assert [line.split()[:3] for line in said.splitlines()[1:3]] == [
        ["h1", "h2", "answered"],
        ["h1", "h3", "answered"],
    ]
    assert "2 members tested, 0 with differences" in said
    world.dark = frozenset({"203.0.113.3"})
    status, said = run("connectivity", "test")
    assert status == 1 and "h1 -> h3: ping: expected to pass" in said and "1 with differences" in said


def test_what_policy_denies_is_expected_to_be_silent(run: Run, world: World, tmp_path: Path) -> None:
    (Paths(tmp_path).policies / "closed.yaml").write_text(POLICY)
    status, said = run("connectivity", "test", "h2", "--port", "80/tcp", "-o", "json")
    (row,) = json.loads(said)["rows"]
    assert status == 1 and len(row["differences"]) == 2  # ping and port 80 pass, and should not
    world.dark = frozenset({"203.0.113.2"})
    status, said = run("connectivity", "test", "h2", "--port", "80/tcp", "-o", "json")
    assert status == 0 and json.loads(said)["rows"][0]["encrypted"] is None


@pytest.mark.usefixtures("world")
def test_a_plan_of_the_controller_decides(run: Run, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    wish = {"passes": False, "why": "rule 7"}
    plan.write_text(
        json.dumps({"targets": [{"name": "h3", "icmp": wish, "ports": [{"port": "80/tcp", **wish}]}]})
    )
    status, said = run("connectivity", "test", "--plan", str(plan), "--json")
    (row,) = json.loads(said)["rows"]
    assert status == 1 and row["to"] == "h3" and "rule 7" in row["differences"][0]
