# SPDX-License-Identifier: Apache-2.0
"""A host's digest over relocated files and a kernel that holds nothing of ours: each part by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.loading import load

from wardmesh.daemon import digest
from wardmesh.daemon.digest import Digester, InForce, without_agent
from wardmesh.daemon.inputs import load_or_last_good, remember
from wardmesh.discovery.learned import write_learned
from wardmesh.health.drift import PARTS, UNREAD, Part, document, report_of
from wardmesh.host.paths import Paths

fakes = load("tests/unit/agent/daemon/fakes.py")
clusters = load("tests/unit/agent/daemon/test_clusters.py")
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: db}
spec: {nodeSelector: {}, ingress: [{fromEntities: [cluster]}]}
"""
FILES = ("agent", "config", "map", "policies")


class Nothing:
    """WireGuard on a host that has no such device."""

    name = "none"

    def exists(self, _ifname: str) -> bool:
        return False


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A member of three whose agent took over what lies in /etc."""
    monkeypatch.setattr(digest, "KernelBackend", Nothing)
    monkeypatch.setattr(digest, "UserspaceBackend", Nothing)
    made: Paths = fakes.make_host(tmp_path / "host", fakes.map_bytes(3, ("node1", "node2", "node3")))
    made.policies.mkdir()
    (made.policies / "db.yaml").write_text(POLICY)
    remember(made, load_or_last_good(made)[0])
    return made


def in_force(paths: Paths, program: str = "f") -> InForce:
    inputs, _refused = load_or_last_good(paths)
    assert inputs.fleet is not None
    return InForce({**inputs.digests(), "agent": program}, inputs.fleet.generation, running=True)


def parts(paths: Paths, force: InForce, program: str = "f") -> dict[str, Part]:
    report = Digester(paths).report(force, program)
    assert report_of(document(report), "node1") == report and report.host == "node1"
    return {part.name: part for part in report.parts}


def test_every_part_is_told_and_an_empty_kernel_has_none_of_them(paths: Paths) -> None:
    found = parts(paths, in_force(paths))
    assert tuple(found) == PARTS
    for name in FILES:
        assert found[name].enforced == found[name].wanted and not found[name].differences
    peers = found["peers"].differences
    assert len(peers) == 2 and peers[0].startswith("node2 ") and peers[0].endswith(" is missing")
    assert "public key is none" in found["keys"].differences[0]
    assert "state is missing" in found["device"].differences
    assert found["guard"].enforced == found["programs"].enforced == UNREAD
    assert any("rule ipv4 95 lookup is missing" in line for line in found["routes"].differences)


def test_each_file_that_was_not_taken_over_is_named(paths: Paths) -> None:
    force = in_force(paths)
    changes = {
        "map": lambda: paths.fleet.write_bytes(fakes.map_bytes(4, ("node1", "node2"))),
        "policies": lambda: (paths.policies / "more.yaml").write_text(POLICY.replace("db", "more")),
        "config": lambda: paths.config.write_text("cluster: {name: test, id: 1}\nmtu: 1400\n"),
    }
    for name, change in changes.items():
        before = {part for part, held in parts(paths, force).items() if held.differences}
        change()
        after = {part for part, held in parts(paths, force).items() if held.differences}
        assert name not in before and name in after
    assert "generation is 3, should be 4" in parts(paths, force)["map"].differences


def test_another_program_and_an_agent_that_does_not_run(paths: Paths) -> None:
    assert "file is f, should be g" in parts(paths, in_force(paths), "g")["agent"].differences
    stopped = without_agent(paths)
    assert not stopped.running and stopped.generation == 3
    found = parts(paths, stopped)
    assert found["agent"].differences == ("state is not running, should be running",)
    assert not found["map"].differences and not found["policies"].differences


def test_a_file_that_the_agent_refuses_is_told(paths: Paths) -> None:
    force = in_force(paths)
    paths.config.write_text("encryption: {enable: 1}\n")
    assert "did you mean" in " ".join(parts(paths, force)["config"].differences)


def test_what_was_kept_is_read_anew_when_any_file_changes(paths: Paths) -> None:
    """Clusters and notes of keys are files, too: with an old wish an agent that is right would drift."""
    paths.config.write_text(clusters.CONFIG)
    paths.clusters.mkdir(parents=True)
    force, kept = in_force(paths), Digester(paths)
    kept.report(force, "f")
    learned = paths.clusters / "k8s-a.json"
    noted = paths.key.with_suffix(".json")
    changes = {
        "a cluster": lambda: learned.write_bytes(write_learned(clusters.rolled().found())),
        "fewer nodes": lambda: learned.write_bytes(write_learned(clusters.rolled(nodes=(1,)).found())),
        "a key's note": lambda: noted.write_text(
            noted.read_text().replace('"generation": 1', '"generation": 2')
        ),
        "nothing good": lambda: (paths.fleet.unlink(), (paths.last_good / "fleet.json").unlink()),
    }
    for what, change in changes.items():
        before = kept.report(force, "f")
        change()
        assert kept.report(force, "f") == Digester(paths).report(force, "f") != before, what
