# SPDX-License-Identifier: Apache-2.0
"""What only a machine can lose: its power in the middle of a change, and the time.

Two emulated machines with a kernel of their own; each test takes minutes (make test PART=slow).
"""

from __future__ import annotations

import functools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import compiled
from conftest import Fleet, changed
from lab import Host, Lab
from lab.kernels import release_of
from lab.pcap import plain_between
from test_fleet import (
    CLOSED,
    TEXT,
    fetch,
    members,
    reaches,
    registered,
    rotated,
    rotation_phase,
    serve,
    state,
    until,
)

pytestmark = [pytest.mark.vm, pytest.mark.slow]

DAY = 86_400
NEXT_KERNEL = "linux-image-6.12-cloud-amd64"  # Debian's own later one for the machines' system
# The kernel's module, its headers and its types, the fallback's device, and all that was made with them.
TAKE_AWAY = """
systemctl stop wardmesh
ip link del wardmesh_wg0
modprobe -r wireguard
mv /lib/modules/$(uname -r)/kernel/drivers/net/wireguard /root/wireguard && depmod
mkdir /run/none
for folder in /usr/src /dev/net; do mount --bind /run/none $folder; done
mount -t tmpfs none /sys/kernel/btf
rm -r /sys/fs/bpf/wardmesh /var/lib/wardmesh/programs
"""
GIVE_BACK = """
umount /usr/src /dev/net /sys/kernel/btf
mv /root/wireguard /lib/modules/$(uname -r)/kernel/drivers/net/ && depmod
systemctl reset-failed wardmesh
systemctl restart wardmesh
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two machines; the first test rolls out."""
    made = Fleet(Lab.up(2, "machines", "vm"), tmp_path_factory.mktemp("machines"), compiled=False)
    yield made
    made.lab.down()


def sealed(fleet: Fleet) -> None:
    """Every host has its tunnels and its seals, and says of no problem."""

    def well(host: Host) -> bool:
        found = state(host)
        rows = [(row["sealed"], row["tunnel"]) for row in found["peers"]]
        return found["problems"] == [] and rows == [(True, "up")]

    for host in fleet.lab.hosts:
        until(functools.partial(well, host), f"{host.name} is whole", pause=1)


def whole(fleet: Fleet) -> None:
    """Besides, each reaches the other."""
    one, two = fleet.lab.hosts
    for source, target in ((one, two), (two, one)):
        until(functools.partial(reaches, source, target), f"{source.name} reaches {target.name}")
    sealed(fleet)


def cut_short(fleet: Fleet, playbook: str, moment: Callable[[], None]) -> None:
    """Run a playbook; when moment returns, node2's power goes. The play fails and names it."""
    two = fleet.lab.hosts[1]

    def strike() -> None:
        moment()
        fleet.lab.cut_power(two)

    striking = threading.Thread(target=strike)
    striking.start()
    broken = fleet.play(playbook, check=False)
    striking.join(600)
    assert broken.returncode != 0 and "node2" in broken.stdout, broken.stdout


def test_a_rollout_is_taken_up_again_after_a_power_cut(machines: Fleet) -> None:
    """The machine is killed as soon as it has the agent."""
    two = machines.lab.hosts[1]

    def installed() -> None:
        look = "test -e /usr/local/lib/wardmesh/current"
        until(lambda: two.run(look, check=False).returncode == 0, "node2 has the agent", 600, 1)

    cut_short(machines, "site", installed)
    machines.lab.power_on(two)
    machines.play("site")
    whole(machines)
    assert set(changed(machines.play("site")).values()) == {0}


def enforced(host: Host) -> str:
    """The port that the policy in force admits, of the file that lies on the host."""
    return host.run("grep -h port: /etc/wardmesh/policies/*").stdout.split('port: "')[1].partition('"')[0]


def test_a_policy_is_in_force_whole_or_not_at_all_after_a_power_cut(machines: Fleet) -> None:
    """Both policies deny port 8080 and admit another one. The power goes while one follows the other."""
    one, two = machines.lab.hosts
    config = "/etc/wardmesh/config.yaml"
    compiled.compile_firewall_outside(two)
    two.run(f"cp -p {config} /root/before; printf 'hostFirewall:\n  enabled: true\n' >> {config}")
    two.run("sync; systemctl reload wardmesh")
    until(lambda: "wardmeshfw" in two.run("tc filter show dev host0 ingress").stdout, "it is there", 300, 1)
    for port in ("1", "2"):
        two.run(f"mkdir -p /root/{port}; cat > /root/{port}/closed.yaml", stdin=CLOSED.replace("PORT", port))
    two.run("sync")  # what is the test's own is to be whole after the cuts
    serve(two)
    assert TEXT in fetch(one, two)
    two.run("wardmesh policy apply /root/1 --replace")
    for after in (0.2, 0.8):
        applying = two.popen("wardmesh policy apply /root/2 --replace")
        time.sleep(after)
        machines.lab.cut_power(two)
        applying.kill()  # ssh would wait for an answer that nobody sends
        applying.wait(30)
        machines.lab.power_on(two)
        two.run("wardmesh status --wait 120")
        assert enforced(two) in ("1", "2")
        serve(two)
        assert one.run(f"curl -s -m 3 http://{two.address}:8080/x", check=False).returncode != 0
        sealed(machines)
        two.run("wardmesh policy apply /root/2 --replace")
        assert enforced(two) == "2"
        two.run("wardmesh policy apply /root/1 --replace")
    two.run("wardmesh policy delete --all")
    two.run(f"mv /root/before {config}; systemctl reload wardmesh")
    assert TEXT in fetch(one, two)


def test_a_clock_that_jumps_a_day_parts_nobody_for_good(machines: Fleet, tmp_path: Path) -> None:
    """WireGuard takes no handshake that is older than the last one: back again, the other side begins."""
    two = machines.lab.hosts[1]
    with machines.lab.capture(tmp_path / "c.pcap"):
        for jump in (DAY, -DAY):
            two.run(f"date -s @$(($(date +%s) + {jump}))")
            # Without its session a host has to shake hands anew, by the new time.
            two.run("wg set wardmesh_wg0 peer $(wg show wardmesh_wg0 peers) remove")
            whole(machines)
    assert not plain_between(tmp_path / "c.pcap", members(machines))


STORE = "http://10.99.0.1:2379"


def test_a_store_with_a_wrong_clock_loses_nobody(machines: Fleet, tmp_path: Path) -> None:
    """It runs on node1, whose clock jumps a day ahead and back. Labels go on to reach the other, and leases
    outlive their time."""
    one, two = machines.lab.hosts
    etcd = shutil.which("etcd")
    assert etcd is not None
    one.put(Path(etcd), "/usr/local/bin/etcd", "0755")
    peers = "--listen-peer-urls http://127.0.0.1:2380"  # there is no localhost on lab hosts
    where = f"--data-dir /root/etcd {peers} --listen-client-urls {STORE} --advertise-client-urls {STORE}"
    one.run(f"systemd-run -q --unit=store etcd {where}")
    wish = {"wardmesh_config": {"etcd": {"endpoints": [STORE], "lease": "15s"}}}
    machines.play("site", "-e", json.dumps(wish))
    with machines.lab.capture(tmp_path / "c.pcap"):
        for jump in (DAY, -DAY):
            one.run(f"date -s @$(($(date +%s) + {jump}))")
            for source, target in ((one, two), (two, one)):
                label = f"turn={source.name}-{'back' if jump < 0 else 'ahead'}"
                source.run(f"wardmesh labels add {label}")
                until(functools.partial(_knows, target, label), f"{target.name} knows {label}", pause=1)
            time.sleep(20)  # longer than the lease
            sealed(machines)
    assert not plain_between(tmp_path / "c.pcap", members(machines))
    machines.play("site")
    one.run("systemctl stop store")
    whole(machines)


def _knows(host: Host, label: str) -> bool:
    return label in host.run("wardmesh identity list", check=False).stdout


def test_a_rotation_survives_a_power_cut_and_loses_nothing_when_it_goes_on(
    machines: Fleet, tmp_path: Path
) -> None:
    """The kernel's WireGuard; the machine is killed when it has the map that names the next keys."""
    one, two = machines.lab.hosts
    before = registered(machines)

    def rotating() -> None:
        until(lambda: "next_key" in registered(machines)["node2"], "the next key is registered", 600)
        until(lambda: rotation_phase(two) != "none", "node2 rotates", 600, 1)

    with machines.lab.capture(tmp_path / "c.pcap"):
        cut_short(machines, "rotate_keys", rotating)
        assert {name: member["key"] for name, member in registered(machines).items()} == {
            name: member["key"] for name, member in before.items()
        }
        machines.lab.power_on(two)
        two.run("wardmesh status --wait 120")
        until(lambda: reaches(one, two), "the host is back")
        rotated(machines, before)
    assert not plain_between(tmp_path / "c.pcap", members(machines), (51871, 51872))
    assert rotation_phase(one) == "none"


def test_another_kernel_has_its_programs_from_the_start(machines: Fleet, tmp_path: Path) -> None:
    """After an upgrade what was compiled for the old kernel does not count; nothing goes out meanwhile."""
    one, two = machines.lab.hosts
    release = release_of(NEXT_KERNEL)
    machines.lab.install_kernel(two, release)
    with machines.lab.capture(tmp_path / "c.pcap"):
        machines.lab.cut_power(two)
        machines.lab.power_on(two)
        whole(machines)
    assert two.run("uname -r").stdout.strip() == release != one.run("uname -r").stdout.strip()
    told = two.run("journalctl -b -u wardmesh-boot --no-pager").stdout
    assert "guard compiled in" in told and "1 of 1 members sealed" in told, told
    assert not plain_between(tmp_path / "c.pcap", members(machines))


def test_what_a_kernel_lacks_is_named_and_nothing_opens(machines: Fleet, tmp_path: Path) -> None:
    """No WireGuard, no device for the fallback, no headers, no BTF: preflight and the agent name all."""
    one, two = machines.lab.hosts
    with machines.lab.capture(tmp_path / "c.pcap"):
        two.run(TAKE_AWAY)
        asked = machines.play("site", "--limit", "node2", check=False)
        two.run("systemctl start wardmesh", check=False)
        until(lambda: _says(two, "WireGuard", "linux-headers"), "the agent says what it needs", pause=1)
        assert one.run(f"ping -q -c 5 -W 1 {two.address}", check=False).returncode != 0
        two.run(GIVE_BACK, timeout=600)
        whole(machines)
    for words in ("neither WireGuard nor /dev/net/tun", "no BTF (/sys/kernel/btf/vmlinux)", "linux-headers-"):
        assert words in asked.stdout, asked.stdout
    assert asked.returncode != 0 and set(changed(asked).values()) == {0}
    assert not plain_between(tmp_path / "c.pcap", members(machines))


def _says(host: Host, *words: str) -> bool:
    told = host.run("wardmesh status; journalctl -b -u wardmesh --no-pager -n 50", check=False).stdout
    return all(word in told for word in words)
