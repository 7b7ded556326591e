# SPDX-License-Identifier: Apache-2.0
"""Users and roles, by the verb that the role kvstore calls, at a real etcd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from etcd_server import Etcd
from tests.unit.agent.discovery.samples import CLUSTER, item

from wardmesh.cli.main import main
from wardmesh.discovery import etcd as client
from wardmesh.discovery.keys import node_key, state_key
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, digest_of


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One server with TLS that asks nobody who he is."""
    made = Etcd(tmp_path / "etcd", tls=True)
    made.folder.mkdir(exist_ok=True)
    made.start()
    yield made
    made.end()


class Verb:
    """The command line, with root's certificate and a map of these hosts."""

    def __init__(self, etcd: Etcd, folder: Path, out: pytest.CaptureFixture[str]) -> None:
        self.etcd, self.folder, self.out = etcd, folder, out

    def __call__(self, numbers: tuple[int, ...], *words: str, **renamed: str) -> dict[str, Any]:
        document = {
            "format": 1,
            "generation": 1,
            "cluster": {"name": CLUSTER.name, "id": CLUSTER.id},
            "members": [{**item(number), **renamed} for number in numbers],
        }
        path = self.folder / "map.json"
        path.write_bytes(canonical({**document, "digest": digest_of(document)}))
        settings = self.etcd.settings("root")
        argv = ["kvstore", "users", str(path), "--endpoint", f"https://{settings.servers[0].target}"]
        argv += ["--ca", str(settings.ca), "--cert", str(settings.cert), "--key", str(settings.key)]
        self.out.readouterr()
        status = main([*argv, "--json", *words])
        answer: dict[str, Any] = json.loads(self.out.readouterr().out)
        assert (status == 0) == ("error" not in answer)
        return answer


@pytest.fixture
def verb(etcd: Etcd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(etcd, tmp_path, capsys)


def may_write(etcd: Etcd, user: str, key: str) -> bool:
    settings = etcd.settings(user)
    connection = client.Etcd(settings, settings.servers[0])
    try:
        connection.put(key, b"x")
    except WardmeshError as error:
        assert "PERMISSION_DENIED" in error.why or "authentication" in error.why or "user name" in error.why
        return False
    finally:
        connection.close()
    return True


def test_each_member_writes_its_own_record_and_a_second_run_changes_nothing(etcd: Etcd, verb: Verb) -> None:
    assert verb((1, 2), "--dry-run")["changed"]
    assert etcd.ctl("user", "list") == ""
    first = verb((1, 2))
    assert first["changed"] and "authentication switched on" in first["changes"]
    assert verb((1, 2)) == {"changed": False, "changes": [], "users": 2}
    agents = [Agent(number, etcd.settings(f"h{number}")).start() for number in (1, 2)]
    for agent in agents:
        agent.knows(1, 2)
        agent.end()
    assert may_write(etcd, "h1", state_key("c", "h1"))
    for key in (node_key("c", "h2"), state_key("c", "h2"), node_key("other", "h1"), "cilium/x", "x"):
        assert not may_write(etcd, "h1", key)
    assert not may_write(etcd, "h3", node_key("c", "h3"))


def test_who_leaves_the_map_loses_the_right_and_strangers_stay(etcd: Etcd, verb: Verb) -> None:
    etcd.ctl("user", "add", "backup", "--no-password")
    verb((1, 2))
    answer = verb((1,))
    assert answer["changes"] == ["user h2 removed", "role wardmesh-member-h2 removed"]
    assert set(etcd.ctl("user", "list").split()) == {"root", "backup", "h1"}
    assert not may_write(etcd, "h2", node_key("c", "h2"))
    assert may_write(etcd, "h1", node_key("c", "h1"))


def test_rights_that_somebody_added_are_taken_back(etcd: Etcd, verb: Verb) -> None:
    verb((1, 2))
    etcd.ctl("role", "grant-permission", "wardmesh-member-h1", "readwrite", node_key("c", "h2"))
    assert may_write(etcd, "h1", node_key("c", "h2"))
    assert verb((1, 2))["changes"] == ["role wardmesh-member-h1 loses cilium/state/nodes/v1/c/h2"]
    assert not may_write(etcd, "h1", node_key("c", "h2"))


def test_a_member_that_only_the_store_is_to_know_gets_a_user(etcd: Etcd, verb: Verb) -> None:
    assert verb((1,), "--also", "h7", "--also", "h1")["users"] == 2
    assert may_write(etcd, "h7", node_key("c", "h7"))
    assert not may_write(etcd, "h7", node_key("c", "h1"))


def test_a_host_that_runs_the_store_may_publish_and_others_may_not(etcd: Etcd, verb: Verb) -> None:
    verb((1, 2), "--publisher", "h1")
    keys = [
        "cilium/state/identities/v1/id/1",
        "cilium/state/ip/v1/default/10.0.0.1",
        "cilium/cluster-config/c",
    ]
    keys += ["cilium/synced/c/x", "cilium/.heartbeat", "wardmesh/v1/c/publisher"]
    for key in keys:
        assert may_write(etcd, "h1", key)
        assert not may_write(etcd, "h2", key)
    for key in (node_key("c", "h2"), "cilium/cluster-config/other", "cilium/synced/other/x"):
        assert not may_write(etcd, "h1", key)


def test_a_member_called_root_is_refused(etcd: Etcd, verb: Verb) -> None:
    assert "error" in verb((1,), name="root")
    assert etcd.ctl("user", "list") == ""
