# SPDX-License-Identifier: Apache-2.0
"""What the role observability writes, run by Ansible itself on this machine; services are for the lab."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.fleets import numbered
from tests.loading import REPO
from tests.playing import play as run_play

from wardmesh.model.authority import make_authority

PLAY = """
- hosts: wardmesh
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: wardmesh.fleet.observability
        tasks_from: monitoring.yml
      vars:
        wardmesh_observability_monitor: localhost
        wardmesh_observability_metrics: true
      run_once: true
"""
SHOW = """
- hosts: wardmesh
  gather_facts: false
  tasks:
    - ansible.builtin.include_vars: {file: ROLE/vars/main.yml}
    - ansible.builtin.set_fact:
        shown: >-
          {{ {'wanted': wardmesh_observability_wanted, 'drop_in': wardmesh_observability_drop_in,
              'port': wardmesh_observability_port | int,
              'certified': wardmesh_observability_certified | bool} }}
    - ansible.builtin.copy:
        dest: "{{ inventory_dir }}/shown.json"
        mode: "0644"
        content: >-
          {{ dict(groups.wardmesh | zip(groups.wardmesh | map('extract', hostvars, 'shown'))) | to_json }}
      run_once: true
"""


def fleet_bytes(count):
    """A map of members with IPv4 addresses, and one with IPv6."""
    fleet = numbered(count, 2)
    members = [{"name": member.name, "addresses": [str(member.addresses[0])]} for member in fleet.members]
    members[0]["addresses"] = ["fd00::1", "10.0.0.1"]
    return json.dumps({"cluster": {"name": "prod", "id": 1}, "members": members})


@pytest.fixture
def controller(tmp_path):
    def run(play, inventory, *words):
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (tmp_path / "play.yml").write_text(play.replace("ROLE", str(REPO / "roles/observability")))
        (tmp_path / "wardmesh-fleet.json").write_text(fleet_bytes(3))
        done = run_play(tmp_path, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def hosts(**variables):
    base = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return {"wardmesh": {"hosts": {"h1": {}, "h2": {}}, "vars": {**base, **variables}}}


def promtool(*words):
    return subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, timeout=60)


def test_prometheus_takes_what_is_written_and_a_second_run_changes_nothing(controller, tmp_path):
    config = {"prometheus": {"enabled": True, "port": 9999}}
    inventory = hosts(wardmesh_config=config)
    dry = controller(PLAY, inventory, "--check", "--diff")
    assert not (tmp_path / "monitoring/targets.json").exists()
    assert "+++ after" in dry
    controller(PLAY, inventory)
    folder = tmp_path / "monitoring"
    targets = json.loads((folder / "targets.json").read_text())
    assert [row["targets"][0] for row in targets] == ["[fd00::1]:9999", "10.0.0.2:9999", "10.0.0.3:9999"]
    assert targets[1]["labels"] == {"instance": "h2", "cluster": "prod"}
    for name in ("prometheus.yml", "scrape.yml"):
        document = yaml.safe_load((folder / name).read_text())
        assert document["scrape_configs"][0]["file_sd_configs"][0]["files"] == [str(folder / "targets.json")]
    done = promtool("check", "config", str(folder / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((folder / "dashboards").glob("*.json"))) == 2
    assert "changed=0" in controller(PLAY, inventory)


def test_by_tls_prometheus_is_told_whom_to_believe(controller, tmp_path):
    config = {"prometheus": {"enabled": True, "tls": True}}
    ca = make_authority("prod", time.time())[0].decode()
    controller(PLAY, hosts(wardmesh_config=config, wardmesh_observability_signed={"ca": ca}))
    folder = tmp_path / "monitoring"
    assert (folder / "ca.crt").read_text() == ca
    for name in ("prometheus.yml", "scrape.yml"):
        job = yaml.safe_load((folder / name).read_text())["scrape_configs"][0]
        assert (job["scheme"], job["tls_config"]) == ("https", {"ca_file": str(folder / "ca.crt")})
    done = promtool("check", "config", str(folder / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


WHOLE = """
- hosts: wardmesh
  gather_facts: false
  roles: [wardmesh.fleet.observability]
"""


def test_the_whole_role_says_beforehand_what_it_would_do(controller, tmp_path):
    units = (
        "wardmesh-observer.service",
        "wardmesh-health.service",
        "wardmesh-relay.service",
        "wardmesh-ui.service",
    )
    digests = {"agent": "a", **dict.fromkeys(units, "")}
    inventory = hosts(
        wardmesh_preflight_result={"digests": digests}, ansible_python_interpreter="/usr/bin/python3"
    )
    limits = {"prometheus": {"enabled": True}, "resources": {"limits": SMALL}}
    inventory["wardmesh"]["hosts"]["h1"] = {"wardmesh_config": limits}
    said = controller(WHOLE, inventory, "--check", "--diff")
    assert "+CPUQuota=50%" in said
    assert "+ExecStart=/usr/local/bin/wardmesh observer" in said
    recap = {line.split()[0]: line.split() for line in said.splitlines() if "unreachable=0" in line}
    assert "failed=0" in recap["h1"]
    assert "changed=0" in recap["h2"]  # wants nothing and has nothing
    assert not Path("/etc/systemd/system/wardmesh-observer.service").exists()
    assert not (tmp_path / "monitoring").exists()


LIMITS = {"cpu": "2", "memory": "2Gi"}
SMALL = {"cpu": "500m", "memory": "512Mi"}
# host, its configuration, the services that it is to run, lines of limits, port of the metrics
CASES = (
    ("nothing", {}, set(), [], 9962),
    ("metrics", {"prometheus": {"enabled": True}}, {"observer"}, [], 9962),
    ("flat", {"prometheus.enabled": True, "prometheus.port": 9}, {"observer"}, [], 9),
    ("hubble", {"hubble": {"enabled": "true"}}, {"observer"}, [], 9962),
    ("checks", {"healthChecking": {"enabled": True, "interval": "10s"}}, {"health"}, [], 9962),
    ("flatchecks", {"healthChecking.enabled": "true"}, {"health"}, [], 9962),
    ("off", {"hubble": {"enabled": "false"}, "prometheus": {"port": "77"}}, set(), [], 77),
    ("relay", {}, {"relay"}, [], 9962),
    ("shown", {"hubble": {"ui": {"listenAddress": ":4246"}}}, {"relay", "ui"}, [], 9962),
    ("unshown", {}, set(), [], 9962),
    ("cores", {"resources": {"limits": LIMITS}}, set(), ["MemoryMax=2G", "CPUQuota=200%"], 9962),
    ("share", {"resources": {"limits": SMALL}}, set(), ["MemoryMax=512M", "CPUQuota=50%"], 9962),
)


def test_the_configuration_decides_which_services_run(controller, tmp_path):
    inventory = hosts(**SHOWN)
    inventory["wardmesh"]["hosts"] = {case[0]: {"wardmesh_config": case[1]} for case in CASES}
    inventory["relays"] = {"hosts": {"relay": {}, "shown": {"wardmesh_ui": True}}}
    inventory["wardmesh"]["hosts"]["unshown"]["wardmesh_ui"] = True  # no relay, no page
    controller(SHOW, inventory)
    shown = json.loads((tmp_path / "shown.json").read_text())
    for name, _config, services, lines, port in CASES:
        found = shown[name]
        wanted = {f"wardmesh-{service}.service" for service in services}
        assert {unit for unit, on in found["wanted"].items() if on} == wanted, name
        assert [line for line in found["drop_in"].splitlines() if "=" in line] == lines, name
        assert found["port"] == port, name


OBSERVING = (
    "wardmesh-observer.service",
    "wardmesh-health.service",
    "wardmesh-relay.service",
    "wardmesh-ui.service",
)
HUBBLE = {"hubble": {"enabled": True, "listenAddress": ":4244"}}
# host, its configuration, wardmesh_hubble_tls, whether the rollout brings a certificate
CERTIFIED = (
    ("everywhere", HUBBLE, "auto", True),
    ("address", {"hubble": {"enabled": True, "listenAddress": "10.0.0.1:4244"}}, "auto", True),
    ("flat", {"hubble.enabled": True, "hubble.listenAddress": ":4244"}, "auto", True),
    ("loopback", {"hubble": {"enabled": True, "listenAddress": "127.0.0.1:4244"}}, "auto", False),
    ("loopback6", {"hubble": {"enabled": True, "listenAddress": "[::1]:4244"}}, "auto", False),
    ("socket", {"hubble": {"enabled": True}}, "auto", False),
    ("disabled", {"hubble": {"enabled": False, "listenAddress": ":4244"}}, "auto", False),
    ("metrics", {"prometheus": {"enabled": True}}, "auto", False),
    ("https", {"prometheus": {"enabled": True, "tls": True}}, "auto", True),
    ("no metrics", {"prometheus": {"enabled": False, "tls": True}}, "auto", False),
    ("relay", {}, "auto", True),
    ("off", HUBBLE, "off", False),
    ("unquoted", HUBBLE, False, False),
    ("files", HUBBLE, "files", False),
    ("own", {"hubble": {**HUBBLE["hubble"], "tls": {"certFile": "/c", "keyFile": "/k"}}}, "auto", False),
)
SHOWN = {
    "wardmesh_relay_group": "relays",
    "wardmesh_prometheus_group": "",
    "wardmesh_hubble_tls": "auto",
    "wardmesh_ui": False,
}


def test_the_configuration_decides_who_gets_a_certificate(controller, tmp_path):
    inventory = hosts(**SHOWN)
    inventory["wardmesh"]["hosts"] = {
        name: {"wardmesh_config": config, "wardmesh_hubble_tls": wanted}
        for name, config, wanted, _certified in CERTIFIED
    }
    inventory["relays"] = {"hosts": {"relay": {}}}
    controller(SHOW, inventory)
    shown = json.loads((tmp_path / "shown.json").read_text())
    for name, _config, _wanted, certified in CERTIFIED:
        assert shown[name]["certified"] is certified, name


def unit_of(name):
    text = (REPO / f"agent/systemd/{name}").read_text()
    return [line for line in text.splitlines() if line and not line.startswith(("#", "["))]


@pytest.mark.parametrize("name", OBSERVING)
def test_what_observes_is_confined_and_never_waited_for(name):
    lines = unit_of(name)
    assert "NoNewPrivileges=yes" in lines
    assert "InaccessiblePaths=-/var/lib/wardmesh/keys" in lines
    assert any(line.startswith("MemoryMax=") for line in lines)
    assert "Restart=on-failure" in lines
    capabilities = next(line for line in lines if line.startswith("CapabilityBoundingSet="))
    assert not {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"} & set(capabilities.partition("=")[2].split())
    for other in (REPO / "agent/systemd").glob("wardmesh*.service"):
        if other.name not in (name, *OBSERVING):
            assert not [line for line in unit_of(other.name) if name in line]
