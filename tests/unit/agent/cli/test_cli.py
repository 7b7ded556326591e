# SPDX-License-Identifier: Apache-2.0
"""The command line as a program: the zipapp, and its words."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from wardmesh.api.server import Server
from wardmesh.cli import text
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, digest_of

REPO = Path(__file__).resolve().parents[4]
STATUS = {
    "version": "0.1.0",
    "mode": "strict",
    "wish": "strict",
    "encryption": True,
    "cluster": "vm-cluster",
    "generation": 7,
    "self": "vm1",
    "address": "192.168.1.10",
    "backend": "kernel",
    "interface": "wardmesh_wg0",
    "publicKey": "KEY",
    "listenPort": 51871,
    "time": 1000.0,
    "peers": [
        {
            "name": "vm2",
            "address": "192.168.1.11",
            "endpoint": "192.168.1.11:51871",
            "reachable": True,
            "tunnel": "up",
            "sealed": True,
            "lastHandshake": 940.0,
            "rxBytes": 1,
            "txBytes": 2,
        }
    ],
    "guard": {"devices": ["eth0"], "counters": {}},
    "revision": 4,
    "firewall": {
        "enabled": True,
        "audit": False,
        "policies": ["web"],
        "counters": {
            "Allowed ingress": {"packets": 7, "bytes": 420},
            "Policy denied ingress": {"packets": 2, "bytes": 120},
            "Policy denied egress": {"packets": 3, "bytes": 180},
        },
    },
    "inactive": [],
    "warnings": [],
    "problems": [],
    "digests": {"fleet": ""},
}


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory):
    target = tmp_path_factory.mktemp("zipapp") / "wardmesh.pyz"
    subprocess.run([sys.executable, str(REPO / "agent/build_zipapp.py"), str(target)], check=True)
    return target


@pytest.fixture
def cli(zipapp, tmp_path):
    def run(*words):
        argv = [sys.executable, str(zipapp), "--root", str(tmp_path), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_two_builds_are_the_same_bytes(zipapp, tmp_path):
    again = tmp_path / "again.pyz"
    subprocess.run([sys.executable, str(REPO / "agent/build_zipapp.py"), str(again)], check=True)
    assert again.read_bytes() == zipapp.read_bytes()
    assert zipapp.read_bytes().startswith(b"#!/usr/bin/python3 -I\n")


def test_version(cli):
    assert cli("version").stdout == "wardmesh 0.1.0\n"
    assert json.loads(cli("version", "-o", "json").stdout) == {"version": "0.1.0"}


def test_status_imports_none_of_the_heavy_packages():
    code = (
        "import sys, wardmesh.cli.main, wardmesh.cli.state, wardmesh.cli.text\n"
        "heavy = {'pyroute2', 'bcc', 'cryptography', 'yaml'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO / "agent", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_wrong_usage_is_2(cli):
    assert cli("nonsense").returncode == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [1\n", ("config.yaml:2", "broken YAML")),
        ("encryption: {modee: strict}\n", ("encryption.modee", "unknown key", "encryption.mode")),
        ("mtu: big\n", ("mtu", "expected an integer")),
    ],
)
def test_a_wrong_configuration_is_told_with_place_and_remedy(cli, tmp_path, content, words):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    done = cli("config", "validate", str(path), "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert all(word in " ".join(error.values()) for word in words)
    assert error["remedy"]


def test_config_get(cli, tmp_path):
    Paths(tmp_path).etc.mkdir(parents=True)
    Paths(tmp_path).config.write_text("cluster: {name: vm-cluster}\n")
    assert cli("config", "get", "cluster.name").stdout == "vm-cluster\n"
    assert json.loads(cli("config", "get", "cluster", "-o", "json").stdout)["cluster.id"] == 1
    assert cli("config", "get", "nonsense").returncode == 1


def test_the_agent_that_does_not_run_is_an_error_in_both_forms(cli):
    done = cli("status", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["remedy"].startswith("systemctl start wardmesh")
    assert "does not run" in done.stderr


def test_a_key_is_born_once_with_tight_permissions_and_never_printed(cli, tmp_path):
    paths = Paths(tmp_path)
    dry = json.loads(cli("node", "init", "--dry-run", "--json").stdout)
    assert dry["public_key"] is None and dry["changed"] and not paths.key.exists()
    first = cli("node", "init", "--json")
    again = json.loads(cli("node", "init", "--json").stdout)
    private = paths.key.read_text().strip()
    assert json.loads(first.stdout)["changed"] and not again["changed"]
    assert paths.key.stat().st_mode & 0o777 == 0o600
    assert private not in first.stdout + first.stderr
    paths.key.chmod(0o644)
    refused = cli("encryption", "key")
    assert refused.returncode == 1 and "wrong permissions" in refused.stderr


def fleet(generation, own_key, extra=()):
    members = [{"name": "node1", "key": own_key, "addresses": ["10.0.0.1"]}, *extra]
    document = {
        "format": 1,
        "generation": generation,
        "cluster": {"name": "default", "id": 1},
        "members": members,
    }
    return canonical({**document, "digest": digest_of(document)}) + b"\n"


def test_fleet_apply_checks_installs_and_refuses_the_older(cli, tmp_path):
    own = json.loads(cli("node", "init", "--json").stdout)["public_key"]
    other = {"name": "node2", "key": base64.b64encode(b"k" * 32).decode(), "addresses": ["10.0.0.2"]}
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    new.write_bytes(fleet(5, own, [other]))
    old.write_bytes(fleet(4, own))
    dry = json.loads(cli("fleet", "apply", str(new), "--dry-run", "--json").stdout)
    assert dry["changed"] and not Paths(tmp_path).fleet.exists()
    real = json.loads(cli("fleet", "apply", str(new), "--json").stdout)
    assert real == dry and real["peers_added"] == ["node1", "node2"]
    assert not json.loads(cli("fleet", "apply", str(new), "--json").stdout)["changed"]
    refused = cli("fleet", "apply", str(old))
    assert refused.returncode == 1 and "not newer" in refused.stderr
    assert Paths(tmp_path).fleet.read_bytes() == new.read_bytes()
    assert "node2" in cli("fleet", "show").stdout


def test_fleet_apply_takes_the_map_back_when_the_agent_refuses_it(cli, tmp_path):
    own = json.loads(cli("node", "init", "--json").stdout)["public_key"]
    new = tmp_path / "new.json"
    new.write_bytes(fleet(5, own))

    def refuse(_body):
        raise WardmeshError("the kernel said no")

    routes = {("GET", "/v1/status"): lambda body: STATUS, ("POST", "/v1/reload"): refuse}
    server = Server(Paths(tmp_path).socket, routes)
    try:
        done = cli("fleet", "apply", str(new))
    finally:
        server.close()
    assert done.returncode == 1 and "the kernel said no" in done.stderr
    assert not Paths(tmp_path).fleet.exists()


def test_status_has_the_form_of_the_seed():
    lines = text.status(STATUS, health=False, verbose=False).splitlines()
    assert lines[:9] == [
        "    /¯¯\\",
        " /¯¯\\__/¯¯\\    Wardmesh:       OK",
        " \\__/¯¯\\__/    Operator:       disabled",
        " /¯¯\\__/¯¯\\    Hubble:         disabled",
        " \\__/¯¯\\__/    ClusterMesh:    disabled",
        "    \\__/",
        "Daemon:         OK",
        "Nodes:",
        "  192.168.1.10 (vm1): Reachable",
    ]
    assert lines[9] == "  192.168.1.11 (vm2): Reachable"


def test_encryption_status_has_the_form_of_the_seed():
    assert text.encryption(STATUS, 1000.0).splitlines()[:4] == [
        "Encryption:      WireGuard",
        "Node Encryption: Enabled",
        "Peers:",
        "  192.168.1.11 (vm2): Connected, Last Handshake: 1m ago",
    ]


@pytest.mark.parametrize(
    ("then", "words"), [(0, "never"), (970, "30s ago"), (900, "1m ago"), (1001, "0s ago")]
)
def test_ago(then, words):
    assert text.ago(then, 1000.0) == words


def test_wait_names_who_is_missing(cli, tmp_path):
    down = {**STATUS, "peers": [{**STATUS["peers"][0], "reachable": False, "tunnel": "down"}]}
    server = Server(Paths(tmp_path).socket, {("GET", "/v1/status"): lambda body: down})
    try:
        done = cli("status", "--wait", "0.5", "-o", "json")
    finally:
        server.close()
    assert done.returncode == 1
    assert json.loads(done.stdout)["peers"][0]["name"] == "vm2"
    assert "waiting: 0 of 1 tunnels up, no tunnel to vm2" in done.stderr
    assert "no tunnel to vm2" in done.stderr.splitlines()[-1]


def test_a_broken_configuration_does_not_hide_what_the_agent_says(cli, tmp_path):
    """The agent goes on with the last good one, and its status names what is wrong with the file."""
    config = Paths(tmp_path).config
    config.parent.mkdir(parents=True)
    config.write_bytes(bytes(40))  # as a power cut leaves it
    server = Server(Paths(tmp_path).socket, {("GET", "/v1/status"): lambda body: STATUS})
    try:
        done = cli("status", "-o", "json")
    finally:
        server.close()
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["peers"] == STATUS["peers"]
    assert "refused" in found["hubble"] and "refused" in found["health"]["problems"][0]


def test_status_tells_what_the_firewall_drops():
    said = text.status(STATUS, health=False, verbose=False)
    assert "Host firewall:  Enabled, 1 policies, revision 4, Policy denied: 5" in said.splitlines()


def test_labels_are_kept_and_told(cli, tmp_path):
    added = json.loads(cli("labels", "add", "app=web", "tier=front", "-o", "json").stdout)
    assert added == {"changed": True, "before": {}, "labels": {"app": "web", "tier": "front"}}
    assert json.loads(cli("labels", "add", "app=web", "-o", "json").stdout)["changed"] is False
    preview = json.loads(cli("labels", "remove", "tier", "--dry-run", "-o", "json").stdout)
    assert preview["changed"] and preview["labels"] == {"app": "web"}
    assert "app=web (not in the fleet map yet)" in cli("labels", "list").stdout
    assert json.loads(cli("labels", "remove", "app", "tier", "-o", "json").stdout)["labels"] == {}


@pytest.mark.parametrize("label", ["a b=c", "app=-x", "x/y/z=1", "node=me", "ünïcode=1", "k=" + "v" * 64])
def test_odd_labels_are_refused(cli, tmp_path, label):
    done = cli("labels", "add", label)
    assert done.returncode == 1 and "remedy" in done.stderr
    assert not (tmp_path / "var/lib/wardmesh/labels.json").exists()


def test_identities_of_the_fleet(cli, tmp_path):
    (tmp_path / "etc/wardmesh").mkdir(parents=True, exist_ok=True)
    key = base64.b64encode(b"k" * 32).decode()
    (tmp_path / "etc/wardmesh/fleet.json").write_bytes(fleet(1, key))
    rows = json.loads(cli("identity", "list", "-o", "json").stdout)["identities"]
    reserved = [["reserved:host"], ["reserved:world"], ["reserved:remote-node"]]
    assert [row["labels"] for row in rows[:3]] == reserved
    member = next(row for row in rows if row["members"])
    assert f"vm:node={member['members'][0]}" in cli("identity", "get", str(member["id"])).stdout
    assert cli("identity", "get", "7").returncode == 1
