# SPDX-License-Identifier: Apache-2.0
"""Flows on real hosts: known traffic in, exactly these flows out; and enforcement never notices who looks."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import Fleet, changed
from lab import Host, Lab
from test_policy import PROBE, SERVER, apply, reaches

pytestmark = pytest.mark.container

CONFIG = json.dumps(
    {
        "wardmesh_config": {
            "hostFirewall": {"enabled": True},
            "hubble": {"enabled": True, "listenAddress": ":4244"},
            "prometheus": {"enabled": True},
        },
        "wardmesh_relay_group": "wardmesh",
        "wardmesh_ui": True,
        "wardmesh_observability_monitoring": False,
    }
)
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec:
  nodeSelector: {matchLabels: {node: node2}}
  ingress:
  - fromEndpoints: [{matchLabels: {node: node1}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}, {port: "53", protocol: UDP}]}]
  - fromEntities: [remote-node]
    toPorts: [{ports: [{port: "4244", protocol: TCP}]}]
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts with observer, relay and metrics; node2 listens and lets node1 in."""
    made = Fleet(Lab.up(3, "observe"), tmp_path_factory.mktemp("observe"))
    made.play("site", "-e", CONFIG)
    for host in made.lab.hosts:
        for name, text in (("server", SERVER), ("probe", PROBE)):
            host.run(f"cat > /run/{name}.py", stdin=text)
    two = made.lab.hosts[1]
    two.run("systemd-run -q --unit=listen python3 /run/server.py; sleep 0.5")
    apply(two, POLICY)
    yield made
    made.lab.down()


def flows(host: Host, since: float, *flags: str) -> list[dict[str, Any]]:
    """What a host tells in the client's JSON form."""
    done = host.run(f"wardmesh observe --all --since {since:.3f} -o jsonpb {' '.join(flags)}")
    return [json.loads(line)["flow"] for line in done.stdout.splitlines()]


def told(flow: dict[str, Any]) -> tuple[object, ...]:
    """Of a flow: type, verdict, who, to whom, answer, encrypted."""
    layer4 = next(iter(flow["l4"].items()))
    return (
        flow["event_type"]["type"],
        flow["verdict"],
        flow["source"].get("pod_name", ""),
        flow["destination"].get("pod_name", ""),
        layer4[0],
        flow.get("is_reply", False),
        flow["IP"].get("encrypted", False),
    )


def until(host: Host, since: float, count: int, *flags: str) -> list[dict[str, Any]]:
    """So many flows, or those that are there after five seconds."""
    end = time.monotonic() + 5
    while True:
        found = flows(host, since, *flags)
        if len(found) >= count or time.monotonic() > end:
            return found
        time.sleep(0.2)


VERDICT, TRACE, DROP = 5, 4, 1


def now_on(host: Host) -> float:
    """Its clock."""
    return float(host.run("date +%s.%N").stdout)


def test_known_traffic_in_exactly_these_flows_out(watched: Fleet) -> None:
    one, two, three = watched.lab.hosts
    since = now_on(two)
    assert reaches(one, two.address, 80)
    assert reaches(one, two.address, 53, "udp")
    assert not reaches(three, two.address, 443)
    port80 = until(two, since, 3, "--port", "80")
    assert [told(flow) for flow in port80] == [
        (VERDICT, "FORWARDED", "node1", "node2", "TCP", False, True),
        (TRACE, "FORWARDED", "node2", "node1", "TCP", True, True),
        (TRACE, "FORWARDED", "node1", "node2", "TCP", False, True),
    ]
    opened = port80[0]
    assert [policy["name"] for policy in opened["ingress_allowed_by"]] == ["web"]
    assert (opened["IP"]["source"], opened["IP"]["destination"]) == (one.address, two.address)
    assert "vm:node=node1" in opened["source"]["labels"] and opened["source"]["identity"] > 255
    assert opened["traffic_direction"] == "INGRESS" and opened["node_name"].endswith("/node2")
    port53 = until(two, since, 2, "--port", "53")
    assert [told(flow) for flow in port53] == [
        (VERDICT, "FORWARDED", "node1", "node2", "UDP", False, True),
        (TRACE, "FORWARDED", "node2", "node1", "UDP", True, True),
    ]
    dropped = until(two, since, 2, "--port", "443")
    assert {told(flow) for flow in dropped} == {(DROP, "DROPPED", "node3", "node2", "TCP", False, True)}
    assert {flow["drop_reason_desc"] for flow in dropped} == {"POLICY_DENIED"}


def test_the_sender_sees_the_round_trip(watched: Fleet) -> None:
    one, two, _three = watched.lab.hosts
    since = now_on(one)
    assert reaches(one, two.address, 80)
    assert len(until(one, since, 3, "--port", "80")) == 3
    opened, answered, closing = one.run(
        f"wardmesh observe --all --since {since:.3f} --port 80"
    ).stdout.splitlines()
    assert "-> node2:80" in opened and "policy-verdict" in opened and "EGRESS ALLOWED" in opened
    assert "<- node2:80" in answered and " rtt " in answered
    assert "-> node2:80" in closing and "FIN" in closing


def test_the_relay_shows_the_fleet_and_says_who_is_missing(watched: Fleet) -> None:
    one, two, three = watched.lab.hosts
    since = now_on(one)
    assert reaches(one, two.address, 80)
    fleet = until(one, since, 6, "--fleet", "--port", "80")
    assert {flow["node_name"].split("/")[1] for flow in fleet} == {"node1", "node2"}
    times = [flow["time"] for flow in fleet]
    assert times == sorted(times) and len(fleet) == 6
    three.run("systemctl stop wardmesh-observer")
    try:
        done = one.run("wardmesh observe --fleet --last 5 2>&1")
        assert "node3" in done.stdout
    finally:
        three.run("systemctl start wardmesh-observer")


def test_the_page_shows_the_fleet_to_this_host_alone(watched: Fleet) -> None:
    one, two, _three = watched.lab.hosts
    assert "<title>wardmesh</title>" in one.run("curl -sS -m 5 http://localhost:4246/").stdout
    assert reaches(one, two.address, 80)
    ask = "curl -sS -m 10 'http://localhost:4246/api/v1/updates?from=node1&to=node2&port=80/tcp'"
    end = time.monotonic() + 30
    while True:
        answer = json.loads(one.run(ask).stdout)
        if {row["node"].rpartition("/")[2] for row in answer["rows"]} == {"node1", "node2"}:
            break
        assert time.monotonic() < end, answer
        time.sleep(0.5)
    assert answer["status"]["connected"] and answer["status"]["members"] == 3
    assert {edge["kind"] for edge in answer["edges"]} == {"encrypted"}
    assert "web" in {row["policies"] for row in answer["rows"]}
    assert one.run(f"curl -sS -m 5 http://{one.address}:4246/", check=False).returncode != 0


def test_status_names_the_observer(watched: Fleet) -> None:
    assert "Hubble:         OK" in watched.lab.hosts[0].run("wardmesh status").stdout


def test_metrics_answer_members_and_nobody_else(watched: Fleet) -> None:
    one, two, _three = watched.lab.hosts
    text = one.run(f"curl -sS -m 5 http://{one.address}:9962/metrics").stdout
    assert 'cilium_wireguard_peers{state="up"} 2.0' in text
    assert "hubble_flows_processed_total" in text
    over = one.run(f"curl -sS -m 5 http://{two.address}:9962/metrics", check=False)
    assert over.returncode != 0  # node2's policy does not open the port
    ask = ["curl", "-sS", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}"]
    outside = subprocess.run(
        ["ip", "netns", "exec", "wl-observe", *ask, f"http://{one.address}:9962/metrics"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "200" not in outside.stdout


def test_enforcement_does_not_notice_who_looks(watched: Fleet) -> None:
    one, two, three = watched.lab.hosts
    two.run("systemctl kill -s KILL wardmesh-observer")
    assert reaches(one, two.address, 80) and not reaches(three, two.address, 80)
    end = time.monotonic() + 30
    while two.run("systemctl is-active wardmesh-observer", check=False).stdout.strip() != "active":
        assert time.monotonic() < end, "the observer did not come back"
        time.sleep(0.5)
    since = now_on(two)
    assert reaches(one, two.address, 80)
    assert len(until(two, since, 3, "--port", "80")) == 3


def test_what_audit_lets_through_becomes_a_policy(watched: Fleet) -> None:
    """node3 is let through and told of; the suggested policy, enforced, admits just what was seen."""
    _one, two, three = watched.lab.hosts
    audited = POLICY.replace("{name: web}", '{name: web, annotations: {wardmesh.io/audit: "true"}}')
    since = now_on(two)
    apply(two, audited)
    try:
        assert reaches(three, two.address, 443)
        found = until(two, since, 1, "--type", "trace-audit", "--port", "443")
        assert [told(flow)[:4] for flow in found] == [(VERDICT, "AUDIT", "node3", "node2")]
        suggested = two.run(f"wardmesh policy suggest --all --since {since:.3f}").stdout
        two.run(
            "cat > /run/p/suggested.yaml && wardmesh policy validate /run/p/suggested.yaml", stdin=suggested
        )
        two.run("cat > /run/p/web.yaml && wardmesh policy apply /run/p --replace", stdin=POLICY)
        assert reaches(three, two.address, 443) and not reaches(three, two.address, 80)
    finally:
        apply(two, POLICY)
    assert not reaches(three, two.address, 443)


def test_a_second_run_changes_nothing(watched: Fleet) -> None:
    assert set(changed(watched.play("site", "-e", CONFIG)).values()) == {0}


def test_doctor_and_sysdump_speak_of_a_healthy_host(watched: Fleet) -> None:
    one = watched.lab.hosts[0]
    checks = json.loads(one.run("wardmesh doctor -o json", check=False).stdout)["checks"]
    assert not [check for check in checks if check["finding"] == "problem"], checks
    key = one.run("cat /var/lib/wardmesh/keys/wg0.key").stdout.strip()
    one.run("wardmesh sysdump --output /run/dump.tar.gz")
    assert one.run("stat -c %a /run/dump.tar.gz").stdout.strip() == "600"
    assert one.run(f"tar xOzf /run/dump.tar.gz | grep -c -F '{key}'", check=False).stdout.strip() == "0"


def test_uninstall_takes_the_observer_along(watched: Fleet) -> None:
    watched.play("uninstall", "-e", CONFIG)
    for host in watched.lab.hosts:
        left = host.run(
            "ls /etc/systemd/system | grep wardmesh; ls /run/wardmesh /sys/fs/bpf/wardmesh 2>/dev/null; "
            "ss -Hlnt '( sport = :4244 or sport = :4245 or sport = :4246 or sport = :9962 )'",
            check=False,
        )
        assert left.stdout.strip() == "", left.stdout
