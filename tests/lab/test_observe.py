# SPDX-License-Identifier: Apache-2.0
"""Flows on real hosts: known traffic in, exactly these flows out; and enforcement never notices who looks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.observe.authority import authority, client
from tests.waiting import wait_for

from conftest import ROOT, Fleet, changed, changed_tasks
from hardening import check_nobody, check_stranger
from lab import Host, Lab
from lab.pcap import read
from prometheus import hurried, running
from test_policy import PROBE, SERVER, apply, reaches
from wardmesh.model.certificates import server_name

pytestmark = [pytest.mark.container, pytest.mark.beside]

VARIABLES = {
    "wardmesh_config": {
        "hostFirewall": {"enabled": True},
        "hubble": {"enabled": True, "listenAddress": ":4244", "relay": {"listenAddress": ":4245"}},
        "prometheus": {"enabled": True, "tls": True},
    },
    "wardmesh_relay_group": "wardmesh",
    "wardmesh_ui": True,
    "wardmesh_observability_monitoring": False,
}
CONFIG = json.dumps(VARIABLES)
MONITORED = json.dumps({**VARIABLES, "wardmesh_observability_monitoring": True})
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
    made = Fleet(Lab.up(3, "observe"), tmp_path_factory.mktemp("observe"), compiled=False)
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
    """The flows, as soon as there are so many."""
    found: list[dict[str, Any]] = []

    def enough() -> bool:
        found[:] = flows(host, since, *flags)
        return len(found) >= count

    wait_for(enough, f"{count} flows of {' '.join(flags)} on {host.name}", 60, 0.3)
    return found


VERDICT, TRACE, DROP = 5, 4, 1
RELAY, NAME = "10.99.0.1", server_name("node1", "default")


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


def test_what_goes_past_the_tunnel_is_told_as_dropped(watched: Fleet) -> None:
    one, two, _three = watched.lab.hosts
    since = now_on(one)
    assert one.run(f"curl -sS -m 2 --interface host0 http://{two.address}/", check=False).returncode != 0
    found = until(one, since, 1, "--verdict DROPPED", "--port 80")
    assert {told(flow) for flow in found} == {(DROP, "DROPPED", "node1", "node2", "TCP", False, False)}
    assert {flow["drop_reason_desc"] for flow in found} == {"UNENCRYPTED_TRAFFIC"}


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


def shown(cert: Path, key: Path) -> list[str]:
    """Flags of a client that has a certificate."""
    return ["--tls-client-cert-file", str(cert), "--tls-client-key-file", str(key)]


def ask_relay(
    watched: Fleet, *words: str, server: str = f"tls://{RELAY}:4245"
) -> subprocess.CompletedProcess[str]:
    """From outside of the fleet: the controller on the hosts' bridge."""
    python = [str(ROOT / ".venv/bin/python"), "-m", "wardmesh", "observe", "--server", server]
    return subprocess.run(
        ["ip", "netns", "exec", watched.lab.bridge_ns, *python, "--all", "-o", "jsonpb", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "agent")},
    )


def test_outside_of_the_fleet_only_a_certificate_opens_the_relay(watched: Fleet, tmp_path: Path) -> None:
    one, two, _three = watched.lab.hosts
    done = watched.play("client_certificate", "-e", "wardmesh_client=alice")
    assert changed(done) == {"node1": 1}
    assert changed(watched.play("client_certificate", "-e", "wardmesh_client=alice")) == {"node1": 0}
    folder = watched.folder / "wardmesh-ca/clients"
    trust = ["--tls-ca-cert-files", str(folder / "ca.crt"), "--tls-server-name", NAME]
    own = [
        "--tls-client-cert-file",
        str(folder / "alice.crt"),
        "--tls-client-key-file",
        str(folder / "alice.key"),
    ]
    cert, key = client(tmp_path, NAME, authority())
    foreign = ["--tls-client-cert-file", str(cert), "--tls-client-key-file", str(key)]
    since = now_on(one)
    assert reaches(one, two.address, 80)
    with watched.lab.capture(tmp_path / "c.pcap"):
        found = ask_relay(watched, *trust, *own, "--since", f"{since:.3f}", "--port", "80")
        refused = [ask_relay(watched, *trust), ask_relay(watched, *trust, *foreign)]
    told_by = {json.loads(line).get("node_name", "") for line in found.stdout.splitlines() if "flow" in line}
    assert {"default/node1", "default/node2"} <= told_by, found.stdout + found.stderr
    for done in refused:
        assert done.returncode != 0 and "flow" not in done.stdout, done.stdout
    curl = ["curl", "-sS", "-m", "3", "--http2-prior-knowledge", f"http://{RELAY}:4245/"]
    plain = subprocess.run(
        ["ip", "netns", "exec", watched.lab.bridge_ns, *curl], capture_output=True, text=True, check=False
    )
    assert plain.returncode != 0
    frames = list(read(tmp_path / "c.pcap"))
    assert sum(4245 in (frame.sport, frame.dport) for frame in frames) > 20
    outside = [frame.data for frame in frames if 51871 not in (frame.sport, frame.dport)]
    assert not [data for data in outside if b"GetFlows" in data or b"vm:node" in data]


def test_members_are_asked_with_a_certificate_and_by_name(watched: Fleet) -> None:
    one, two, _three = watched.lab.hosts
    plain = one.run(f"wardmesh observe --server {two.address}:4244 --last 1", check=False)
    assert plain.returncode != 0
    own = (
        "--tls-ca-cert-files /etc/wardmesh/tls/ca.crt --tls-client-cert-file /etc/wardmesh/tls/hubble.crt "
        "--tls-client-key-file /var/lib/wardmesh/tls/hubble.key"
    )
    ask = f"wardmesh observe --server tls://{two.address}:4244 --last 1 {own} --tls-server-name"
    assert one.run(f"{ask} {server_name('node2', 'default')}").stdout.strip()
    assert one.run(f"{ask} {NAME}", check=False).returncode != 0


def test_a_new_certificate_restarts_nothing(watched: Fleet) -> None:
    """node2's certificate is damaged, and the next run brings another; the units go on as they were."""
    two = watched.lab.hosts[1]
    pids = "systemctl show -p MainPID wardmesh-observer wardmesh-relay wardmesh"
    before, old = two.run(pids).stdout, two.run("cat /etc/wardmesh/tls/hubble.crt").stdout
    two.run("truncate -s 100 /etc/wardmesh/tls/hubble.crt")
    predicted = changed_tasks(watched.play("site", "--check", "--diff", "-e", CONFIG))
    real = changed_tasks(watched.play("site", "--diff", "-e", CONFIG))
    assert predicted == real
    assert {host for task, host in real if "Install the certificate" in task} == {"node2"}
    new = two.run("cat /etc/wardmesh/tls/hubble.crt").stdout
    assert new != old and "END CERTIFICATE" in new
    assert two.run(pids).stdout == before
    assert two.run("wardmesh observe --fleet --last 1").stdout.strip()


def grep(text: str, folder: Path) -> list[str]:
    """Files below a folder, or what Ansible keeps, that hold a text."""
    done = subprocess.run(
        ["grep", "-rlF", "-e", text, str(folder), "/root/.ansible"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split()


def test_no_key_of_tls_is_anywhere_but_in_its_place(watched: Fleet) -> None:
    path = "/var/lib/wardmesh/tls/hubble.key"
    kept = watched.folder / "wardmesh-ca/ca.key"
    secret = kept.read_text().splitlines()[1]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert secret not in watched.output and grep(secret, watched.folder) == [str(kept)]
    for host in watched.lab.hosts:
        assert host.run(f"stat -c %a {path}").stdout.strip() == "600"
        own = host.run(f"cat {path}").stdout.splitlines()[2]
        assert own not in watched.output and grep(own, watched.folder) == []
        assert host.run(f"grep -rlF -e '{secret}' /etc /var /run /root", check=False).stdout == ""
        host.run("wardmesh sysdump --output /run/keys.tar.gz")
        dumped = host.run(f"tar xOzf /run/keys.tar.gz | grep -c -F -e '{own}'", check=False)
        assert dumped.stdout.strip() == "0"


def test_the_page_shows_the_fleet_to_this_host_alone(watched: Fleet) -> None:
    one, two, _three = watched.lab.hosts
    assert "<title>wardmesh</title>" in one.run("curl -sS -m 5 http://localhost:4246/").stdout
    assert reaches(one, two.address, 53, "udp")  # of port 80 there were drops, too
    ask = "curl -sS -m 10 'http://localhost:4246/api/v1/updates?from=node1&to=node2&port=53/udp'"

    def both() -> Any:
        found = json.loads(one.run(ask).stdout)
        return (
            found if {row["node"].rpartition("/")[2] for row in found["rows"]} == {"node1", "node2"} else None
        )

    answer = wait_for(both, "both ends of the connection are told", pause=0.5)
    assert answer["status"]["connected"] and answer["status"]["members"] == 3
    assert {edge["kind"] for edge in answer["edges"]} == {"encrypted"}
    assert "web" in {row["policies"] for row in answer["rows"]}
    assert one.run(f"curl -sS -m 5 http://{one.address}:4246/", check=False).returncode != 0


def test_status_names_the_observer(watched: Fleet) -> None:
    assert "Hubble:         OK" in watched.lab.hosts[0].run("wardmesh status").stdout


def test_metrics_answer_members_and_nobody_else(watched: Fleet) -> None:
    one, two, _three = watched.lab.hosts
    believed = "--cacert /etc/wardmesh/tls/ca.crt"
    text = one.run(f"curl -sS -m 5 {believed} https://{one.address}:9962/metrics").stdout
    assert 'cilium_wireguard_peers{state="up"} 2.0' in text
    assert "hubble_flows_processed_total" in text
    assert "cilium_wireguard_peers" in one.run("curl -sS -m 5 http://127.0.0.1:9962/metrics").stdout
    assert one.run(f"curl -sS -m 5 http://{one.address}:9962/metrics", check=False).returncode != 0
    over = one.run(f"curl -sS -m 5 {believed} https://{two.address}:9962/metrics", check=False)
    assert over.returncode != 0  # node2's policy does not open the port
    ask = ["curl", "-sSk", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}"]
    outside = subprocess.run(
        ["ip", "netns", "exec", "wl-observe", *ask, f"https://{one.address}:9962/metrics"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "200" not in outside.stdout


def test_a_user_without_rights_gets_at_nothing(watched: Fleet) -> None:
    assert all(check_nobody(watched.lab, host) > 30 for host in watched.lab.hosts)


def test_who_is_no_member_gets_no_answer(watched: Fleet) -> None:
    check_stranger(watched.lab, [4240, 4244, 4245, 4246, 9962])


def test_enforcement_does_not_notice_who_looks(watched: Fleet) -> None:
    one, two, three = watched.lab.hosts
    two.run("systemctl kill -s KILL wardmesh-observer")
    assert reaches(one, two.address, 80) and not reaches(three, two.address, 80)
    wait_for(
        lambda: two.run("systemctl is-active wardmesh-observer", check=False).stdout.strip() == "active",
        "the observer is back",
        pause=0.5,
    )
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


@pytest.fixture
def same_set(watched: Fleet) -> Iterator[None]:
    """The same policies everywhere, else an alert tells that they are not; afterwards node2 has its own."""
    one, two, three = watched.lab.hosts
    for host in watched.lab.hosts:
        apply(host, POLICY.replace('"4244"', '"9962"'))
    yield
    for host in (one, three):
        host.run("wardmesh policy delete --all")
    apply(two, POLICY)


@pytest.mark.usefixtures("same_set")
def test_prometheus_scrapes_the_fleet_and_its_rules_fire_for_a_member_that_is_cut_off(watched: Fleet) -> None:
    """The server lives on node1. The cable of node3 is pulled, and later plugged in again."""
    one, _two, three = watched.lab.hosts
    folder = watched.folder / "monitoring"
    watched.play("observability", "-e", MONITORED, "-e", f"wardmesh_prometheus_dir={folder}")
    one_of_three = f"wl-{watched.lab.name}-1"
    with running(one_of_three, hurried(folder), watched.folder / "tsdb") as server:
        wait_for(
            lambda: server.value("up") == {"node1": 1, "node2": 1, "node3": 1},
            "all three are scraped",
            pause=0.5,
        )
        assert server.value('cilium_wireguard_peers{state="up"}') == {"node1": 2, "node2": 2, "node3": 2}
        wait_for(lambda: server.value("ALERTS") == {}, "no alert, not even a pending one", pause=0.5)
        watched.lab.pull_cable(three)
        try:
            one.run("ip link del wardmesh_wg0")  # an idle tunnel stays up for minutes, a new one is not up
            wanted = {("WardmeshObserverDown", "node3"), ("WardmeshMemberUnreachable", "node3")}
            wait_for(lambda: server.firing() >= wanted, "alerts for node3", pause=0.5)
            own = {("WardmeshUnencryptedDropped", "node1")}  # what it sent while it had no tunnel
            more = {name for name, _about in server.firing() - wanted - own}
            assert more <= {"CiliumWireGuardPeerDown"}  # where somebody still sends to node3
        finally:
            watched.lab.plug_cable(three)
            watched.lab.wait(three)
        wait_for(lambda: server.firing() == set(), "silence again", 120, 0.5)


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


def test_without_certificates_only_the_tunnel_is_served(watched: Fleet) -> None:
    """Switched off, keys and certificates go; in strict mode members ask each other inside the tunnel."""
    off = json.dumps({**json.loads(CONFIG), "wardmesh_hubble_tls": "off"})
    watched.play("site", "-e", off)
    one = watched.lab.hosts[0]
    for host in watched.lab.hosts:
        left = host.run("ls /etc/wardmesh/tls /var/lib/wardmesh/keys", check=False).stdout
        assert "hubble" not in left and "ca.crt" not in left
    since = now_on(one)
    assert reaches(one, watched.lab.hosts[1].address, 80)

    def who_tells() -> set[str]:  # of the first one's flows; what others tried before may end now
        found = flows(one, since, "--fleet", "--port", "80")
        return {flow["node_name"].split("/")[1] for flow in found if one.address in flow["IP"].values()}

    wait_for(lambda: who_tells() == {"node1", "node2"}, "both ends tell", 60, 0.3)
    assert ask_relay(watched, server=f"{RELAY}:4245").returncode != 0


def test_uninstall_takes_the_observer_along(watched: Fleet) -> None:
    watched.play("uninstall", "-e", CONFIG)
    for host in watched.lab.hosts:
        left = host.run(
            "ls /etc/systemd/system | grep wardmesh; "
            "ls -d /etc/wardmesh /var/lib/wardmesh /run/wardmesh /sys/fs/bpf/wardmesh 2>/dev/null; "
            "ss -Hlnt '( sport = :4244 or sport = :4245 or sport = :4246 or sport = :9962 )'",
            check=False,
        )
        assert left.stdout.strip() == "", left.stdout
