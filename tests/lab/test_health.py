# SPDX-License-Identifier: Apache-2.0
"""Checks of the peers on real hosts: status, ping, the table of connectivity, policies, a dead host."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.waiting import wait_for

from conftest import Fleet, changed
from hardening import check_nobody, check_stranger
from lab import Host, Lab

pytestmark = pytest.mark.container

CONFIG = json.dumps(
    {
        "wardmesh_config": {
            "hostFirewall": {"enabled": True},
            "healthChecking": {"enabled": True, "interval": "1s"},
            "prometheus": {"enabled": True},
        },
        "wardmesh_observability_monitoring": False,
        "wardmesh_connectivity_ports": ["4240/tcp", "5432/tcp"],
    }
)
# node2 admits node1 on 5432 and nothing else.
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: db}
spec:
  nodeSelector: {matchLabels: {node: node2}}
  ingress:
  - fromEndpoints: [{matchLabels: {node: node1}}]
    toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts that check each other every second, with the firewall on and no policy."""
    made = Fleet(Lab.up(3, "health"), tmp_path_factory.mktemp("health"), compiled=False)
    made.play("site", "-e", CONFIG)
    yield made
    made.lab.down()


def until(question: Callable[[], Any], what: str) -> Any:
    """Poll a host; each look is a command by SSH."""
    return wait_for(question, what, 120, 0.5)


def health(host: Host) -> dict[str, Any]:
    return dict(json.loads(host.run("wardmesh status -o json").stdout)["health"])


def states(host: Host) -> dict[str, str]:
    return {row["name"]: row["state"] for row in health(host).get("peers", [])}


def all_reachable(fleet: Fleet) -> bool:
    return all(set(states(host).values()) == {"reachable"} for host in fleet.lab.hosts)


def status_with(host: Host, words: str) -> str:
    """`status --all-health`, once it says these words."""

    def ask() -> str:
        text = host.run("wardmesh status --all-health").stdout
        return text if words in text else ""

    return str(until(ask, f"status says: {words}"))


def flat(done: subprocess.CompletedProcess[str]) -> str:
    """What a play said, without the line breaks of its output."""
    return " ".join(done.stdout.split())


def table(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], list[str]]:
    """The rows of the play's table by (from, to): eight cells, whose lines the output may fold."""
    rows = [words.split() for words in re.findall(r"- (node\d node\d(?: \S+){6})", flat(done))]
    return {(row[0], row[1]): row[2:] for row in rows}


def put(fleet: Fleet, text: str) -> None:
    """The same policies on every host."""
    for host in fleet.lab.hosts:
        host.run("mkdir -p /run/p; rm -f /run/p/*; cat > /run/p/db.yaml", stdin=text)
        host.run("wardmesh policy apply /run/p --replace" if text else "wardmesh policy delete --all")


def test_status_tells_who_is_reachable_and_how_well(checked: Fleet) -> None:
    one = checked.lab.hosts[0]
    until(lambda: all_reachable(checked), "everybody reaches everybody")
    told = status_with(one, "OK, RTT=")
    assert "Cluster health: 2/2 reachable" in told and "(Probe interval: 1s" in told
    assert told.count("ICMP to stack:   OK, RTT=") >= 2 and told.count("HTTP to agent:   OK, RTT=") >= 2
    assert "path tunnel" in told and "path plain" not in told
    assert "Cluster health: 2/2 reachable" in one.run("wardmesh status").stdout


def test_metrics_of_the_checks(checked: Fleet) -> None:
    one = checked.lab.hosts[0]
    until(lambda: all_reachable(checked), "everybody reaches everybody")
    rows = json.loads(one.run("wardmesh metrics list -o json").stdout)["metrics"]
    found = {(row["name"], row["labels"].get("peer", "")): row["value"] for row in rows}
    assert found["cilium_unreachable_nodes", ""] == 0
    assert found["wardmesh_peer_reachable", "node2"] == 1
    assert 0 < found["wardmesh_peer_latency_seconds", "node3"] < 1
    assert found["cilium_node_packet_loss_ratio", "node2"] <= 0.5


def test_ping_tells_the_path_and_proves_encryption(checked: Fleet) -> None:
    one, two, _three = checked.lab.hosts
    for member in ("node2", two.address6):
        said = json.loads(one.run(f"wardmesh ping {member} -c 3 -o json").stdout)
        assert said["path"] == "tunnel" and said["device"] == "wardmesh_wg0"
        assert said["encrypted"] is True, said["evidence"]
        assert said["mtu"] == 1420 and said["answered"] == 3
    assert "encrypted:  yes" in one.run("wardmesh ping node2 -c 2").stdout
    wrong = one.run("wardmesh ping nod2 -o json", check=False)
    assert wrong.returncode == 1 and "did you mean node2" in json.loads(wrong.stdout)["error"]["remedy"]


def test_strangers_get_nothing_from_the_port(checked: Fleet) -> None:
    """The bridge's own address is no member's: the connection is closed without a byte."""
    one = checked.lab.hosts[0]
    ask = ["curl", "-sS", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}"]
    done = subprocess.run(
        ["ip", "netns", "exec", "wl-health", *ask, f"http://{one.address}:4240/hello"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout in ("000", ""), done
    assert (
        checked.lab.hosts[1]
        .run(f"curl -sS -m 5 -o /dev/null -w '%{{http_code}}' http://{one.address}:4240/hello")
        .stdout
        == "200"
    )


def test_nobody_gets_more_than_that(checked: Fleet) -> None:
    """Neither a user without rights, nor a machine that is no member."""
    check_nobody(checked.lab, checked.lab.hosts[0])
    check_stranger(checked.lab, [4240, 4244, 9962])


def test_the_table_of_a_fleet_where_all_is_well(checked: Fleet) -> None:
    done = checked.play("connectivity", "-e", CONFIG)
    rows = table(done)
    assert len(rows) == 6, done.stdout
    for row in rows.values():
        assert row == ["answered", "4240:open,5432:refused", "1420", "yes", "ok", "ok"], row
    assert set(changed(done).values()) == {0}


def test_policies_are_expected_and_what_contradicts_them_fails_the_play(checked: Fleet) -> None:
    one, two, three = checked.lab.hosts
    folder = checked.folder / "expected"  # not the fleet's: nobody rolls it out
    folder.mkdir(exist_ok=True)
    (folder / "db.yaml").write_text(POLICY)
    words = ("-e", CONFIG, "-e", json.dumps({"wardmesh_connectivity_policies": [str(folder)]}))
    try:
        wrong = checked.play("connectivity", *words, check=False)
        assert wrong.returncode != 0  # nothing is enforced yet, and what should be closed is open
        assert "ping: expected to be denied" in flat(wrong)
        assert table(wrong)["node3", "node2"][-2:] == ["DIFFERS", "DIFFERS"]
        put(checked, POLICY)
        good = checked.play("connectivity", *words)
        assert table(good)["node1", "node2"] == [
            "no-answer",
            "4240:open,5432:refused",
            "-",
            "yes",
            "ok",
            "ok",
        ]
        assert table(good)["node3", "node2"][:2] == ["no-answer", "4240:open,5432:no-answer"]
        # Without policies of the controller, those that are installed say the same.
        assert one.run("wardmesh connectivity test --port 5432/tcp node2", check=False).returncode == 0
        # A rule that is not in force everywhere is found.
        two.run("wardmesh policy delete --all")
        again = checked.play("connectivity", *words, check=False)
        assert again.returncode != 0 and "5432/tcp: expected to be denied" in flat(again)
        assert three.run("wardmesh connectivity test node2", check=False).returncode == 1
    finally:
        put(checked, "")


def test_a_policy_that_denies_icmp_makes_nobody_look_dead(checked: Fleet) -> None:
    one = checked.lab.hosts[0]
    put(checked, POLICY)
    try:
        said = status_with(one, "denied by policy")
        assert "Cluster health: 2/2 reachable" in said and "(node2): Reachable" in said
        ping = one.run("wardmesh ping node2 -c 1", check=False)
        assert ping.returncode == 1 and "policy denies ICMP" in ping.stdout
    finally:
        put(checked, "")


def test_a_host_that_is_down_is_noticed_and_named(checked: Fleet) -> None:
    one, _two, three = checked.lab.hosts
    until(lambda: all_reachable(checked), "everybody reaches everybody")
    three.run(
        "systemctl stop wardmesh-health; nft add table inet off; "
        "nft 'add chain inet off in { type filter hook input priority -200; }'; "
        "nft 'add rule inet off in iifname \"wardmesh_wg0\" drop'"
    )
    try:
        until(lambda: states(one) == {"node2": "reachable", "node3": "unreachable"}, "node3 is unreachable")
        told = one.run("wardmesh status --all-health").stdout
        assert "Cluster health: 1/2 reachable" in told and "(node3): Unreachable" in told
        ping = one.run("wardmesh ping node3 -c 1", check=False)
        assert ping.returncode == 1 and "no answer" in ping.stdout
        done = checked.play("connectivity", "-e", CONFIG, check=False)
        assert done.returncode != 0 and "node3: ping: expected to pass" in flat(done)
        doctor = json.loads(one.run("wardmesh doctor -o json", check=False).stdout)["checks"]
        found = next(check for check in doctor if check["id"] == "peers-health")
        assert found["finding"] == "problem" and "node3" in found["seen"]
    finally:
        three.run("nft delete table inet off; systemctl start wardmesh-health")
    until(lambda: all_reachable(checked), "node3 is back")


FORGET = """
import sys
sys.path.insert(0, "/usr/local/lib/wardmesh/current")
from pathlib import Path
from wardmesh.datapath import bpfsys
(found,) = Path("/sys/fs/bpf/wardmesh").glob("maps-*/ipcache4")
bpfsys.map_delete(bpfsys.obj_get(found), bytes([10, 99, 0, 2]))
"""


def drifted(host: Host, *words: str) -> dict[str, list[str]]:
    """The parts of each host that `fleet drift` names."""
    said = json.loads(host.run(" ".join(("wardmesh fleet drift -o json", *words)), check=False).stdout)
    return {row["host"]: row["parts"] for row in said["hosts"] if row["drifted"]}


def test_a_fleet_that_is_as_it_should_be_has_no_drift(checked: Fleet) -> None:
    one, two, _three = checked.lab.hosts
    until(lambda: all_reachable(checked), "everybody reaches everybody")
    for host in (one, two):
        assert drifted(host) == {}, host.run("wardmesh fleet drift", check=False).stdout
    assert "3 of 3 hosts are as they should be" in one.run("wardmesh fleet drift").stdout
    report = json.loads(one.run("wardmesh fleet digest -o json").stdout)
    assert report["digest"] == report["wanted"] and len(report["parts"]) == 12
    done = checked.play("drift", "-e", CONFIG)
    assert "DRIFTED" not in done.stdout and flat(done).count(" ok") >= 3, done.stdout
    assert set(changed(done).values()) == {0}


def test_who_drifts_is_named_with_the_part(checked: Fleet) -> None:
    """By the other members through the tunnel, before the agent has repaired it."""
    one, two, three = checked.lab.hosts
    two.run("mkdir -p /run/p; rm -f /run/p/*; cat > /run/p/db.yaml", stdin=POLICY)
    two.run("wardmesh policy apply /run/p --replace")
    one.run("python3 -", stdin=FORGET)  # the guard is compared every thirty seconds
    try:
        assert drifted(three) == {"node1": ["guard"], "node2": ["policies"]}
        assert "10.99.0.2/32 is missing" in three.run("wardmesh fleet drift", check=False).stdout
        three.run("systemctl stop wardmesh")
        assert drifted(one)["node3"] == ["unknown"]
        three.run("wg set wardmesh_wg0 peer $(wg show wardmesh_wg0 peers | head -1) remove")
        done = flat(checked.play("drift", "-e", CONFIG))
        assert re.search(r"node3 DRIFTED agent,peers ", done), done
    finally:
        three.run("systemctl start wardmesh")
        put(checked, "")
    until(lambda: drifted(three) == {}, "everything is as it should be again")


def test_only_the_drifted_are_touched(checked: Fleet) -> None:
    one = checked.lab.hosts[0]
    one.run("echo '# by hand' >> /etc/wardmesh/config.yaml")
    done = checked.play("site", "-e", CONFIG, "-e", "wardmesh_only_drifted=true")
    counts = changed(done)
    assert counts["node1"] > 0 and counts["node2"] == counts["node3"] == 0, done.stdout
    _looked, _play, rest = done.stdout.partition("PLAY [Check every host]")
    assert "[node1]" in rest.partition("PLAY RECAP")[0]
    assert "[node2]" not in rest.partition("PLAY RECAP")[0]
    until(lambda: all_reachable(checked), "nobody lost anybody")
    assert len(one.run("wg show wardmesh_wg0 peers").stdout.split()) == 2
    again = checked.play("site", "-e", CONFIG, "-e", "wardmesh_only_drifted=true")
    assert set(changed(again).values()) == {0} and "TASK [wardmesh.fleet.preflight" not in again.stdout


def test_a_second_run_changes_nothing(checked: Fleet) -> None:
    assert set(changed(checked.play("site", "-e", CONFIG)).values()) == {0}


def test_uninstall_takes_the_checks_along(checked: Fleet) -> None:
    checked.play("uninstall", "-e", CONFIG)
    for host in checked.lab.hosts:
        left = host.run(
            "ls /etc/systemd/system | grep wardmesh; ls /run/wardmesh 2>/dev/null; "
            "ss -Hlnt '( sport = :4240 )'",
            check=False,
        )
        assert left.stdout.strip() == "", left.stdout
