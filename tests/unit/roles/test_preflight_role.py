# SPDX-License-Identifier: Apache-2.0
"""Variables of all roles are judged with the host, at once and before anything changes; on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.loading import REPO
from tests.playing import play

ROLES = ["preflight", "agent", "mesh", "observability"]
PLAY = """
- hosts: h1
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: wardmesh.fleet.preflight
        rolespec_validate: false
      vars: {wardmesh_preflight_roles: [preflight, agent, mesh, observability]}
      ignore_errors: true
    - ansible.builtin.copy:
        dest: "{{ inventory_dir }}/result.json"
        content: "{{ wardmesh_preflight_result | to_json }}"
        mode: "0600"
"""


@pytest.fixture
def preflight(tmp_path: Path) -> Any:
    """A run for h1 with these variables; the module's result and what was shown."""

    def run(**variables: Any) -> tuple[dict[str, Any], str]:
        base = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        hosts = {"h1": {**base, **variables}, "h2": {"ansible_host": "127.0.0.1"}}
        groups = {"wardmesh": {"hosts": hosts}, "relays": {"hosts": {"h1": None}}}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups))
        (tmp_path / "play.yml").write_text(PLAY)
        done = play(tmp_path, "-vvv", environment={"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"})
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / "result.json").read_text()), done.stdout + done.stderr

    return run


WRONG = {
    "agent": {"wardmesh_cluster_id": "first"},
    "mesh": {"wardmesh_mesh_wait": "long", "wardmesh_strict_require": "some"},
    "observability": {"wardmesh_hubble_tls": "maybe"},
    "preflight": {"wardmesh_preflight_verbose": "perhaps"},
}


def test_wrong_variables_of_every_role_are_named_at_once_beside_what_is_wrong_with_the_host(
    preflight: Any,
) -> None:
    together = {name: value for options in WRONG.values() for name, value in options.items()}
    result, _shown = preflight(**together, wardmesh_addresses=["192.0.2.1"])
    assert result["failed"]
    for role, options in WRONG.items():
        for name in options:
            assert any(f"role {role}: " in line and name in line for line in result["errors"]), name
    assert all(line in result["msg"] for line in result["errors"])


def test_the_inventory_says_what_is_asked_of_the_host(preflight: Any) -> None:
    """A value that leads to another variable is judged by what it becomes; one that leads nowhere is left."""
    config = {"encryption": {"listenPort": 51999}, "etcd": {"endpoints": ["https://10.0.0.1:2379"]}}
    given = {
        "wardmesh_config": config,
        "port_of_mine": "12",
        "wardmesh_mesh_wait": "{{ port_of_mine }}",
        "wardmesh_ca_dir": "{{ told_by_a_later_role }}/ca",
        "wardmesh_addresses": ["192.0.2.1"],
        "wardmesh_relay_group": "relays",
    }
    result, shown = preflight(**given)
    assert not [line for line in result["errors"] if line.startswith("role ")]
    assert [line for line in result["errors"] if "192.0.2.1" in line]
    asked = json.loads(shown.split('"module_args": ')[1].split("}")[0] + "}")
    wanted = {"port": 51999, "hint": "192.0.2.1", "peers": ["127.0.0.1"], "observer": True, "store": True}
    assert {name: asked.get(name) for name in wanted} == wanted
    assert result["observing"] is True


def test_what_is_said_of_preflight_itself_goes_before(preflight: Any) -> None:
    given = {"wardmesh_preflight_port": 7, "wardmesh_preflight_peers": [], "wardmesh_preflight_store": True}
    result, shown = preflight(**given, wardmesh_preflight_verbose=True)
    assert '"port": 7,' in shown
    assert result["observing"] is False
    assert all(f"h1: {line}" in " ".join(shown.split()) for line in result["advice"])


def test_the_rollout_leaves_no_role_unjudged() -> None:
    """A role that does not validate its own arguments is among those that preflight judges."""
    plays = yaml.safe_load((REPO / "playbooks/site.yml").read_text())
    tasks = [task for play in plays for task in play.get("tasks", [])]
    imported = [
        task["ansible.builtin.import_role"] for task in tasks if "ansible.builtin.import_role" in task
    ]
    unjudged = {role["name"].split(".")[-1] for role in imported if not role.get("rolespec_validate", True)}
    judged = [task["vars"]["wardmesh_preflight_roles"] for task in tasks if "vars" in task]
    assert unjudged and judged == [ROLES] and unjudged <= set(ROLES)
    assert imported[0]["name"] == "wardmesh.fleet.preflight"
