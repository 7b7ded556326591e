# SPDX-License-Identifier: Apache-2.0
"""The command line as a program: the zipapp, and its words."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from wardmesh.cli import text
from wardmesh.host.paths import Paths
from wardmesh.model.fleetmap import canonical, digest_of

REPO = Path(__file__).resolve().parents[4]


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


def test_wrong_usage_is_2(cli):
    assert cli("nonsense").returncode == 2


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


@pytest.mark.parametrize(
    ("then", "words"), [(0, "never"), (970, "30s ago"), (900, "1m ago"), (1001, "0s ago")]
)
def test_ago(then, words):
    assert text.ago(then, 1000.0) == words
