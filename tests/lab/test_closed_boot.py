# SPDX-License-Identifier: Apache-2.0
"""A host that cannot load guard and firewall at boot is closed, can be mended by SSH, and opens again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_for

from conftest import Fleet
from lab import Host, Lab
from lab.pcap import plain_between, read

pytestmark = [pytest.mark.container, pytest.mark.beside]

PROGRAMS = Path(__file__).parent / "programs"
BCC = "/usr/lib/python3/dist-packages/bcc"
DENIED, ALLOWED = 9999, 9998
POLICY = f"""
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {{name: one-port}}
spec:
  nodeSelector: {{matchLabels: {{node: node2}}}}
  ingress:
  - fromEntities: [all]
    toPorts: [{{ports: [{{port: "{ALLOWED}", protocol: UDP}}]}}]
"""
# From the moment on in which the host has addresses: answers on both ports, and talks to its peer.
EARLY = f"""
[Unit]
DefaultDependencies=no
After=lab-net.service
[Service]
ExecStart=sh -c "ping -q -i 0.05 10.99.0.1 & exec python3 /usr/local/lib/knock.py serve {ALLOWED} {DENIED}"
[Install]
WantedBy=multi-user.target
"""
CONFIG = '{"wardmesh_config": {"hostFirewall": {"enabled": true}}}'
FILTERS = "for way in ingress egress; do tc filter show dev DEVICE $way; done"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two sealed members with a firewall; node2 answers everybody on one port and has another."""
    made = Fleet(Lab.up(2, "closed"), tmp_path_factory.mktemp("closed"), compiled=False)
    made.play("site", "-e", CONFIG)
    two = made.lab.hosts[1]
    two.put(PROGRAMS / "knock.py", "/usr/local/lib/knock.py")
    two.run("cat > /etc/systemd/system/early.service; systemctl enable -q --now early", stdin=EARLY)
    two.run("mkdir -p /run/p; cat > /run/p/one-port.yaml; wardmesh policy apply /run/p", stdin=POLICY)
    yield made
    made.lab.down()


class Stranger:
    """Somebody on the wire who is no member, asks both ports of a host all the time and counts answers."""

    def __init__(self, lab: Lab, host: Host, path: Path) -> None:
        self._path, self._targets = path, {port: f"{host.address}/{port}" for port in (ALLOWED, DENIED)}
        argv = ["ip", "netns", "exec", lab.bridge_ns, sys.executable, str(PROGRAMS / "knock.py"), "talk"]
        self._process = subprocess.Popen([*argv, str(path), "0.01", *self._targets.values()])

    def told(self, port: int) -> dict[str, float]:
        """How many were sent to a port, and answered."""
        wait_for(self._path.exists, "the stranger has begun")
        return dict(json.loads(self._path.read_text())[self._targets[port]])

    def is_answered(self, port: int) -> bool:
        """Is anything that is sent from now on answered within a second or two?"""
        before = self.told(port)["answered"]
        time.sleep(1.5)
        return self.told(port)["answered"] > before

    def close(self) -> None:
        """Stop."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def stranger(mesh: Fleet, tmp_path: Path) -> Iterator[Stranger]:
    """One who asks node2."""
    made = Stranger(mesh.lab, mesh.lab.hosts[1], tmp_path / "told.json")
    yield made
    made.close()


def status(host: Host) -> dict[str, Any]:
    """The agent's word; nothing while it starts."""
    done = host.run("wardmesh status -o json", check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def closed(host: Host, device: str = "host0") -> bool:
    """Does the stand-in stand there, in both directions?"""
    return host.run(FILTERS.replace("DEVICE", device), check=False).stdout.count("wardmeshshut-") == 2


def ssh_by_the_tunnel(source: Host, target: Host) -> bool:
    """Does one member hear the other's SSH? Between sealed ones there is no other way."""
    ask = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{target.address}/22; head -c 4 <&3'"
    return source.run(ask, check=False).stdout == "SSH-"


def test_without_a_compiler_it_is_closed_until_there_is_one(
    mesh: Fleet, stranger: Stranger, tmp_path: Path
) -> None:
    one, two = mesh.lab.hosts
    assert stranger.is_answered(ALLOWED) and not stranger.is_answered(DENIED)
    two.run(f"mv {BCC} {BCC}.away; rm -r /var/lib/wardmesh/programs")
    with mesh.lab.capture(tmp_path / "c.pcap"):
        mesh.lab.reboot(two)  # which waits for SSH
        assert two.run("systemctl is-active wardmesh-boot", check=False).stdout.strip() == "failed"
        assert "the host is closed" in two.run("journalctl -b -u wardmesh-boot --no-pager").stdout
        assert closed(two) and two.run("systemctl is-active early").stdout.strip() == "active"
        assert not stranger.is_answered(ALLOWED)
        wait_for(lambda: status(two).get("closed"), "the agent says so", 60)
        shown = two.run("wardmesh status").stdout
        assert "Closed:" in shown and "this host is closed" in shown and "bcc is missing" in shown
        wait_for(lambda: closed(two, "wardmesh_wg0"), "what comes by the tunnel is closed, too")
        wait_for(lambda: ssh_by_the_tunnel(one, two), "a member reaches SSH", 60, 1)
        two.run("ip link add late0 type veth peer name late1; ip addr add 10.77.0.1/24 dev late0")
        two.run("ip link set late0 up; ip link set late1 up")
        wait_for(lambda: closed(two, "late0"), "a device that came later is closed, too", 30)
        assert stranger.told(DENIED)["answered"] == 0
        two.run(f"mv {BCC}.away {BCC}")
        wait_for(lambda: status(two).get("closed") is False, "it opens", 180, 0.5)
        wait_for(lambda: stranger.is_answered(ALLOWED), "the allowed port answers", 30)
    two.run("wardmesh status --wait 60")
    assert "Closed" not in two.run("wardmesh status").stdout
    for device in ("host0", "wardmesh_wg0", "late0"):
        assert "wardmeshshut" not in two.run(FILTERS.replace("DEVICE", device)).stdout
        assert two.run(FILTERS.replace("DEVICE", device)).stdout.count("wardmeshfw-") == 2
    assert one.run(f"ping -c 1 -W 2 {two.address}", check=False).returncode != 0  # its policy, as before
    assert two.run(f"ping -c 1 -W 2 {one.address}", check=False).returncode == 0
    told = stranger.told(DENIED)
    assert told["answered"] == 0 and told["sent"] > 250, told
    addresses = {address for host in mesh.lab.hosts for address in (host.address, host.address6)}
    assert not plain_between(tmp_path / "c.pcap", addresses)
    assert any(frame.dport == DENIED for frame in read(tmp_path / "c.pcap"))
    two.run("ip link del late0")


def test_a_compiler_that_takes_too_long_leaves_it_closed_and_cleanup_opens_it(
    mesh: Fleet, stranger: Stranger
) -> None:
    two = mesh.lab.hosts[1]
    two.run(f"mv {BCC} {BCC}.away; mkdir {BCC}; cp {BCC}.away/version.py {BCC}/")
    two.run(f"echo 'import time; time.sleep(3600)' > {BCC}/__init__.py; rm -r /var/lib/wardmesh/programs")
    two.run("mkdir -p /etc/systemd/system/wardmesh-boot.service.d")
    two.run(
        "printf '[Service]\\nTimeoutStartSec=3\\n' > /etc/systemd/system/wardmesh-boot.service.d/short.conf"
    )
    mesh.lab.reboot(two)
    assert two.run("systemctl show -P Result wardmesh-boot").stdout.strip() == "timeout"
    assert closed(two) and not stranger.is_answered(ALLOWED) and not stranger.is_answered(DENIED)
    wait_for(lambda: status(two).get("closed"), "the agent says so while it still compiles", 60)
    two.run("systemctl kill -s KILL wardmesh; systemctl stop wardmesh")
    assert closed(two)
    assert "guard on host0, ingress" in two.run("wardmesh cleanup --dry-run").stdout and closed(two)
    two.run("wardmesh cleanup")
    assert "wardmesh" not in two.run(FILTERS.replace("DEVICE", "host0")).stdout
    assert "clsact" not in two.run("tc qdisc show dev host0").stdout
    assert stranger.is_answered(ALLOWED) and stranger.is_answered(DENIED)
