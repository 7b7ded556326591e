# SPDX-License-Identifier: Apache-2.0
"""The whole way on real hosts, in the order of a fleet's life. Absence is proved on the wire.

What takes many runs of a playbook is left to the containers; conftest.py says how a test chooses.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_for

import compiled
import pings
from conftest import Fleet, changed, changed_tasks
from lab import Host
from lab.pcap import plain_between, read

TEXT = b"plain-words-on-the-wire"
LONG_FLOW = """
import os, socket, time
link = socket.create_connection(("10.99.0.2", 8080))
while not os.path.exists("/run/go-on"):
    time.sleep(0.1)
link.sendall(b"GET /x HTTP/1.0\\r\\n\\r\\n")
data = b""
while part := link.recv(4096):
    data += part
print(data.decode())
"""
# Talks to node1 from the moment on in which the host has addresses.
EARLY_UNIT = """
[Unit]
DefaultDependencies=no
After=lab-net.service
[Service]
ExecStart=sh -c "ping -q -i 0.05 10.99.0.1 & exec ping -q -i 0.05 fd99::1"
[Install]
WantedBy=multi-user.target
"""
# Answers on two ports from the moment on in which the host has addresses.
ECHO_UNIT = """
[Unit]
DefaultDependencies=no
After=lab-net.service
[Service]
ExecStart=python3 /usr/local/lib/echo.py
[Install]
WantedBy=multi-user.target
"""
ECHO = """
import select, socket
found = [socket.socket(type=socket.SOCK_DGRAM) for port in (9998, 9999)]
for port, link in zip((9998, 9999), found):
    link.bind(("", port))
while True:
    for link in select.select(found, [], [])[0]:
        data, sender = link.recvfrom(99)
        link.sendto(data, sender)
"""
# Asks a denied port a hundred times a second and an allowed one ten times, until the file is there. A refusal
# by ICMP is an answer, too: the packet came in.
ASK = """
import json, os, socket, sys, time
def opened(port):
    made = socket.socket(type=socket.SOCK_DGRAM)
    made.connect((sys.argv[1], port)); made.setblocking(False)
    return made
links = {"denied": opened(9999), "allowed": opened(9998)}
found = {name: {"sent": 0, "answered": 0} for name in links}
begun, turn = time.monotonic(), 0
while not os.path.exists("/run/enough"):
    for name, link in links.items():
        if name == "denied" or turn % 10 == 0:
            try: link.send(b"x"); found[name]["sent"] += 1
            except ConnectionRefusedError: found[name]["answered"] += 1
            except OSError: pass
        try:
            while link.recv(99): found[name]["answered"] += 1
        except BlockingIOError: pass
        except OSError: found[name]["answered"] += 1
    turn += 1
    time.sleep(max(0.0, begun + turn * 0.01 - time.monotonic()))
print(json.dumps({**found, "seconds": int(time.monotonic() - begun)}))
"""
SNAPSHOT = (
    "ls /sys/class/net; ip rule; ip -6 rule; "
    "ip route show table all | grep -v 'proto ra'; ip -6 route show table all | grep -v expires; "
    "tc qdisc show; tc filter show dev host0 ingress; tc filter show dev host0 egress; ls /sys/fs/bpf; "
    "ls /etc/systemd/system /etc /usr/local/bin /usr/local/lib /var/lib /run | grep -i wardmesh; "
    "sysctl -n net.ipv4.conf.host0.src_valid_mark net.ipv4.conf.host0.rp_filter"
)


def until(holds: Callable[[], bool], what: str, seconds: float = 120, pause: float = 0.3) -> None:
    """Poll a host; each look is a command by SSH, dear to an emulated machine."""
    wait_for(holds, what, seconds, pause)


def members(fleet: Fleet) -> set[str]:
    return {address for host in fleet.lab.hosts for address in (host.address, host.address6)}


def serve(host: Host) -> None:
    host.run(
        f"mkdir -p /srv/www; echo {TEXT.decode()} > /srv/www/x; systemctl reset-failed www 2>/dev/null; "
        "systemctl is-active -q www || systemd-run -q --unit=www -p WorkingDirectory=/srv/www "
        "python3 -m http.server 8080 --bind ::"
    )
    until(lambda: host.run("curl -s http://127.0.0.1:8080/x", check=False).returncode == 0, "it serves")


def fetch(source: Host, target: Host, family: str = "address") -> bytes:
    address = getattr(target, family)
    literal = f"[{address}]" if ":" in address else address
    return source.run(f"curl -s -m 10 http://{literal}:8080/x").stdout.encode()


@contextlib.contextmanager
def talking(source: Host, address: str, interval: float = 0.02) -> Iterator[None]:
    """A ping that goes on for the whole block, whatever the answers."""
    source.run(f"systemd-run -q --unit=talk ping -q -i {interval} {address}")
    yield
    source.run("systemctl is-active -q talk && systemctl stop talk")


def reaches(source: Host, target: Host) -> bool:
    return source.run(f"ping -c 1 -W 1 {target.address}", check=False).returncode == 0


def state(host: Host) -> dict[str, Any]:
    return dict(json.loads(host.run("wardmesh status -o json").stdout))


def registered(fleet: Fleet) -> dict[str, Any]:
    return dict(json.loads((fleet.folder / "wardmesh-registry.json").read_text())["members"])


def rotation_phase(host: Host) -> str:
    return str(json.loads(host.run("wardmesh encryption rotate --json").stdout)["phase"])


def test_control_capture_sees_plain_text(fleet: Fleet, tmp_path: Path) -> None:
    """Before the rollout the text is on the wire, so the later absence means something."""
    for (
        host
    ) in fleet.lab.hosts:  # the kernel's own routes come when an address has proved to be nobody else's
        host.run(
            'for i in $(seq 100); do [ -z "$(ip -6 addr show tentative)" ] && ip -6 route | grep -q ^fe80 '
            "&& exit 0; sleep 0.1; done; exit 1"
        )
    fleet.snapshots = {host.name: host.run(SNAPSHOT, check=False).stdout for host in fleet.lab.hosts}
    serve(fleet.lab.hosts[1])
    with fleet.lab.capture(tmp_path / "c.pcap"):
        assert TEXT in fetch(fleet.lab.hosts[0], fleet.lab.hosts[1])
    assert any(TEXT in frame.data for frame in read(tmp_path / "c.pcap"))


@pytest.mark.container
def test_check_mode_changes_nothing(fleet: Fleet) -> None:
    fleet.predicted = changed_tasks(fleet.play("site", "--check", "--diff"))
    for host in fleet.lab.hosts:
        assert host.run("ls /etc/wardmesh /usr/local/bin/wardmesh", check=False).returncode != 0


def test_first_run_does_what_check_mode_said_and_cuts_no_connection(fleet: Fleet) -> None:
    flow = fleet.lab.hosts[0].popen(f"python3 -c {shlex.quote(LONG_FLOW)}")
    real = changed_tasks(fleet.roll_out("-vvv"))
    assert real == (fleet.predicted or real)
    # The agent, the map and strict, on every host.
    assert all([name for _task, name in real].count(host.name) >= 3 for host in fleet.lab.hosts)
    # A TCP connection from before the rollout is alive after strict came.
    fleet.lab.hosts[0].run("touch /run/go-on")
    assert TEXT.decode() in flow.communicate(timeout=90)[0]


def test_second_run_changes_nothing(fleet: Fleet) -> None:
    assert set(changed(fleet.roll_out_again()).values()) == {0}


@pytest.mark.vm
def test_molecule_verifies_its_scenario(fleet: Fleet) -> None:
    """Each to each in both families, nothing of it plain: with the rollouts, `vm` as a user runs it."""
    assert fleet.scenario is not None
    told = fleet.scenario.step("verify").stdout
    assert re.findall(r"node\d+ +: ok=\d+ .*failed=0", told), told


@pytest.mark.container
def test_check_mode_of_a_second_run_predicts_nothing(fleet: Fleet) -> None:
    assert set(changed(fleet.play("site", "--check")).values()) == {0}


@pytest.mark.vm
def test_the_kernels_wireguard_carries_the_mesh(fleet: Fleet) -> None:
    for host in fleet.lab.hosts:
        found = state(host)
        assert (found["backend"], found["mode"]) == ("kernel", "strict")
        assert " wireguard " in host.run("ip -d link show wardmesh_wg0").stdout
        assert host.run("pgrep -x wireguard-go", check=False).returncode == 1


@pytest.mark.parametrize("family", ["address", "address6"])
def test_only_the_tunnel_is_on_the_wire(fleet: Fleet, tmp_path: Path, family: str) -> None:
    with fleet.lab.capture(tmp_path / "c.pcap"):
        assert TEXT in fetch(fleet.lab.hosts[0], fleet.lab.hosts[1], family)
    frames = list(read(tmp_path / "c.pcap"))
    assert sum(frame.protocol == 17 and frame.dport == 51871 for frame in frames) >= 8
    assert not [frame for frame in frames if TEXT in frame.data]
    assert not plain_between(tmp_path / "c.pcap", members(fleet))


CLOSED = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: closed}
spec:
  nodeSelector: {matchLabels: {node: node2}}
  ingress:
  - fromEntities: [cluster]
    toPorts: [{ports: [{port: "PORT", protocol: TCP}]}]
"""


def test_policies_hold_on_this_kernel_and_go_without_a_trace(fleet: Fleet) -> None:
    """The firewall's programs pass this kernel's verifier; test_policy.py has the depth, on containers."""
    one, two = fleet.lab.hosts[:2]
    config, shown = "/etc/wardmesh/config.yaml", "tc filter show dev host0 ingress"
    if fleet.lab.kind == "vm":
        compiled.compile_firewall_outside(two)
    two.run(f"cp -p {config} /run/before; printf 'hostFirewall:\n  enabled: true\n' >> {config}")
    two.run("systemctl reload wardmesh")
    until(lambda: "wardmeshfw" in two.run(shown).stdout, "the firewall is there", 300)
    assert TEXT in fetch(one, two)
    for port, family, wanted in (
        ("1", "address", False),
        ("8080", "address", True),
        ("8080", "address6", True),
    ):
        two.run("mkdir -p /run/p; cat > /run/p/closed.yaml", stdin=CLOSED.replace("PORT", port))
        two.run("wardmesh policy apply /run/p --replace")
        literal = two.address if family == "address" else f"[{two.address6}]"
        done = one.run(f"curl -s -m 3 http://{literal}:8080/x", check=False)
        assert (TEXT.decode() in done.stdout) is wanted
    two.run(f"cp -p /run/before {config}.before")


def test_a_boot_lets_nothing_out_or_in_that_it_should_not(fleet: Fleet, tmp_path: Path) -> None:
    """Both sides talk through the whole restart: what left too early was dropped, not sent. A neighbour asks
    a port that the last policy denies a hundred times a second, from before the boot until after it."""
    one, two = fleet.lab.hosts[:2]
    config, shown = "/etc/wardmesh/config.yaml", "tc filter show dev host0 ingress"
    two.run("cat > /run/p/closed.yaml", stdin=CLOSED.replace("PORT", "9998").replace("TCP", "UDP"))
    two.run("wardmesh policy apply /run/p --replace")
    two.run("cat > /usr/local/lib/echo.py", stdin=ECHO)
    two.run("cat > /etc/systemd/system/echo.service; systemctl enable -q --now echo", stdin=ECHO_UNIT)
    two.run("cat > /etc/systemd/system/early.service; systemctl enable -q early", stdin=EARLY_UNIT)
    one.run("cat > /run/ask.py", stdin=ASK)
    asking = one.popen(f"python3 /run/ask.py {two.address}")
    with fleet.lab.capture(tmp_path / "c.pcap"), talking(one, two.address, 0.05):
        time.sleep(1)
        fleet.lab.reboot(two)
        two.run("wardmesh status --wait 120")
        until(lambda: two.run("systemctl is-active -q echo", check=False).returncode == 0, "echo runs")
        until(lambda: asks(one, two, 9998), "the allowed port answers")
        time.sleep(1)
        one.run("touch /run/enough")
        found = json.loads(asking.communicate(timeout=30)[0].splitlines()[0])
    assert not asks(one, two, 9999)
    counted = state(two)["guard"]["counters"]["Traffic is unencrypted egress"]["packets"]
    boot = two.run("journalctl -b -u wardmesh-boot --no-pager").stdout
    two.run("systemctl disable -q --now echo early")
    two.run("rm /etc/systemd/system/echo.service /etc/systemd/system/early.service /usr/local/lib/echo.py")
    two.run("wardmesh policy delete --all")
    two.run(f"mv {config}.before {config}; systemctl reload wardmesh")
    until(lambda: "wardmeshfw" not in two.run(shown).stdout, "the firewall is gone")
    serve(two)
    print(found)
    assert found["denied"]["answered"] == 0, found
    assert found["allowed"]["answered"] > 5, found
    assert found["denied"]["sent"] > 250, found
    assert not plain_between(tmp_path / "c.pcap", members(fleet))
    assert counted > 0
    assert "members sealed" in boot


def asks(source: Host, target: Host, port: int) -> bool:
    """Does the echo answer now?"""
    code = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1); "
        f"s.connect(('{target.address}', {port})); s.send(b'x'); s.recv(9)"
    )
    return source.run(f'python3 -c "{code}"', check=False).returncode == 0


def test_no_leak_while_the_agent_suffers(fleet: Fleet, tmp_path: Path) -> None:
    """Restart, SIGKILL, interface deleted by hand: a flood goes on, and not one packet is plain."""
    one, two, last = fleet.lab.hosts[0], fleet.lab.hosts[1], fleet.lab.hosts[-1]
    with (
        fleet.lab.capture(tmp_path / "c.pcap"),
        talking(one, last.address),
        talking(last, one.address6),
    ):
        one.run("systemctl restart wardmesh")
        last.run("systemctl kill -s KILL wardmesh")
        time.sleep(1)
        one.run("ip link del wardmesh_wg0")
        until(lambda: "wardmesh_wg0" in one.run("ip -br link").stdout, "the device is back")
        two.run("systemctl stop wardmesh")
        time.sleep(2)
    two.run("systemctl start wardmesh")
    assert not plain_between(tmp_path / "c.pcap", members(fleet))
    assert len(list(read(tmp_path / "c.pcap"))) > 500


def test_what_is_deleted_by_hand_comes_back(fleet: Fleet) -> None:
    host = fleet.lab.hosts[0]
    host.run("wardmesh status --wait 120")
    host.run("ip rule del pref 95; ip route flush table 51871")
    until(
        lambda: (
            "95:" in host.run("ip rule").stdout
            and "10.99.0.2" in host.run("ip route show table 51871", check=False).stdout
        ),
        "rule and routes are back",
    )
    host.run("tc filter del dev host0 egress")
    until(lambda: "wardmesh" in host.run("tc filter show dev host0 egress").stdout, "the filter is back")
    host.run("wg set wardmesh_wg0 peer $(wg show wardmesh_wg0 peers | head -1) remove")
    others = len(fleet.lab.hosts) - 1
    until(lambda: len(host.run("wg show wardmesh_wg0 peers").stdout.split()) == others, "the peer is back")
    log = host.run("journalctl -u wardmesh --no-pager").stdout
    for what in (
        "rule ipv4 95 lookup",
        "route 10.99.0.2/32",
        "guard: host0: egress attached",
        "wireguard: peer",
    ):
        assert f"restored: {what}" in log


def rotated(fleet: Fleet, before: dict[str, Any]) -> None:
    """Rotate all while each host pings the next, ten times a second: nothing is lost, no old key is left."""
    hosts = fleet.lab.hosts
    after_it = [*hosts[1:], hosts[0]]
    running = [
        (host, pings.begin(host, other, "-i 0.1")) for host, other in zip(hosts, after_it, strict=True)
    ]
    fleet.play("rotate_keys")
    assert [pings.lost(host, unit, at_least=100) for host, unit in running] == [0] * len(hosts)
    after = registered(fleet)
    for host in hosts:
        known = host.run("wg show all dump; ip -d -br link").stdout
        assert "wardmesh_wg1" not in known
        for name in after:
            assert after[name]["key"] in known and before[name]["key"] not in known


@pytest.mark.vm
def test_keys_rotate_on_the_kernels_wireguard(fleet: Fleet, tmp_path: Path) -> None:
    """test_rotate.py has the depth, on containers; test_machines.py a power cut in the middle."""
    with fleet.lab.capture(tmp_path / "c.pcap"):
        rotated(fleet, registered(fleet))
    assert not plain_between(tmp_path / "c.pcap", members(fleet), (51871, 51872))


@pytest.mark.container
def test_bad_input_changes_nothing(fleet: Fleet) -> None:
    host = fleet.lab.hosts[0]
    before = host.run("sha256sum /etc/wardmesh/fleet.json; wg show wardmesh_wg0 peers | sort").stdout
    apply = "> /tmp/m; wardmesh fleet apply /tmp/m"
    key = "/var/lib/wardmesh/keys/wg0.key"
    cases = {
        f"head -c 200 /etc/wardmesh/fleet.json {apply}": "not JSON",
        f"sed 's/10.99.0.2/10.99.0.9/' /etc/wardmesh/fleet.json {apply}": "digest",
        "echo 'encryption: {enable: 1}' > /tmp/c; wardmesh config validate /tmp/c": "did you mean",
        f"chmod 644 {key}; wardmesh encryption key; r=$?; chmod 600 {key}; exit $r": "permissions",
        "wardmesh daemon": "another agent runs",
    }
    for command, words in cases.items():
        done = host.run(command, check=False)
        assert done.returncode != 0, command
        assert words in done.stderr and "remedy" in done.stderr, done.stderr
    assert host.run("sha256sum /etc/wardmesh/fleet.json; wg show wardmesh_wg0 peers | sort").stdout == before


@pytest.mark.container
def test_a_limited_run_loses_nobody(fleet: Fleet) -> None:
    fleet.play("site", "--limit", "node1")
    for host in fleet.lab.hosts:
        assert len(host.run("wg show wardmesh_wg0 peers").stdout.split()) == 2


@pytest.mark.container
def test_a_host_that_is_down_is_nobodys_loss(fleet: Fleet) -> None:
    """The cable of node3 is pulled: the run says so, the others keep it as a peer, and it keeps them."""
    host = fleet.lab.hosts[2]
    fleet.lab.pull_cable(host)
    try:
        done = fleet.play("site", check=False)
    finally:
        fleet.lab.plug_cable(host)
    assert done.returncode == 4, done.stdout
    assert "unreachable=1" in done.stdout
    fleet.lab.wait(host)
    for other in fleet.lab.hosts:
        assert len(other.run("wg show wardmesh_wg0 peers").stdout.split()) == 2
    assert set(changed(fleet.play("site")).values()) == {0}


@pytest.mark.container
def test_adding_a_host_touches_the_others_once(fleet: Fleet) -> None:
    pids = {host.name: host.run("systemctl show -p MainPID wardmesh").stdout for host in fleet.lab.hosts}
    fleet.lab.add(range(4, 5))
    counts = changed(fleet.play("site"))
    compiled_on = next(iter(sorted(counts)))  # run_once counts for the first host: the registry
    assert {name: count - (name == compiled_on) for name, count in counts.items() if name != "node4"} == {
        "node1": 1,
        "node2": 1,
        "node3": 1,
    }
    for host in fleet.lab.hosts[:3]:
        assert host.run("systemctl show -p MainPID wardmesh").stdout == pids[host.name]
        assert len(host.run("wg show wardmesh_wg0 peers").stdout.split()) == 3


@pytest.mark.container
def test_decommission_removes_a_host_from_everybody(fleet: Fleet) -> None:
    fleet.play("decommission", "-e", "wardmesh_decommission=node4")
    for host in fleet.lab.hosts[:3]:
        assert len(host.run("wg show wardmesh_wg0 peers").stdout.split()) == 2
    gone = fleet.lab.hosts[3]
    assert "wardmesh" not in gone.run("ip -br link; ls /etc /usr/local/bin /var/lib").stdout
    fleet.lab.power_off(gone)


def test_no_private_key_ever_reached_the_controller(fleet: Fleet) -> None:
    keys = [host.run("cat /var/lib/wardmesh/keys/wg0.key").stdout.strip() for host in fleet.lab.hosts]
    assert all(len(key) == 44 for key in keys)
    for key in keys:
        assert key not in fleet.output
        found = subprocess.run(
            ["grep", "-rlF", key, str(fleet.folder), "/root/.ansible"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not found.stdout, found.stdout


def test_uninstall_leaves_nothing(fleet: Fleet) -> None:
    fleet.play("uninstall")
    for host in fleet.lab.hosts:
        before, after = fleet.snapshots[host.name], host.run(SNAPSHOT, check=False).stdout
        assert list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)) == []
