# SPDX-License-Identifier: Apache-2.0
"""What an operator does to a fleet after the first day, from the collection as a user installs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pings
from conftest import ROOT, Fleet, changed, changed_tasks
from lab import Lab
from lab.pcap import plain_between, read
from mirror import mirror, put

GALAXY = ROOT / ".venv/bin/ansible-galaxy"
ROLLBACK = """
- hosts: wardmesh
  gather_facts: false
  tasks:
    - wardmesh.fleet.agent: {state: rollback}
    - ansible.builtin.systemd_service: {name: wardmesh.service, state: restarted}
"""


def galaxy(folder: Path, *arguments: str) -> None:
    """ansible-galaxy collection, away from the checkout, whose own copy would count as installed."""
    subprocess.run(
        [str(GALAXY), "collection", *arguments],
        check=True,
        capture_output=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_HOME": str(folder / "home")},
    )


@pytest.fixture(scope="module")
def rollout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts with two addresses each; the collection is built, and installed into an empty folder."""
    folder = tmp_path_factory.mktemp("rollout")
    built, installed = folder / "built", folder / "collections"
    galaxy(folder, "build", str(ROOT), "--output-path", str(built))
    galaxy(folder, "install", str(next(built.glob("*.tar.gz"))), "-p", str(installed), "--offline")
    made = Fleet(Lab.up(3, "rollout"), folder, collections=installed)
    for host in made.lab.hosts:
        host.run(f"ip addr add 10.98.0.{host.index}/24 dev host0")
    made.lab.hosts[2].run("dpkg -P wireguard-go")
    mirror(made.lab.hosts[2], folder / "mirror", "wireguard-go")
    yield made
    made.lab.down()


def peers(fleet: Fleet) -> dict[str, int]:
    """How many peers each host has."""
    return {host.name: len(host.run("wg show wardmesh_wg0 peers").stdout.split()) for host in fleet.lab.hosts}


def addresses(fleet: Fleet) -> set[str]:
    """Every address of every member."""
    return {
        address
        for host in fleet.lab.hosts
        for address in (host.address, host.address6, f"10.98.0.{host.index}")
    }


def test_the_installed_collection_rolls_out_with_packages_from_the_hosts_own_mirror(rollout: Fleet) -> None:
    done = rollout.play("wardmesh.fleet.site")
    package = "wardmesh.fleet.agent : Install missing packages from the host's own mirror"
    assert {host for task, host in changed_tasks(done) if task == package} == {"node3"}
    assert peers(rollout) == {"node1": 2, "node2": 2, "node3": 2}
    assert set(changed(rollout.play("wardmesh.fleet.site")).values()) == {0}


def test_all_addresses_of_a_member_go_through_the_tunnel(rollout: Fleet, tmp_path: Path) -> None:
    one, two, three = rollout.lab.hosts
    with rollout.lab.capture(tmp_path / "c.pcap"):
        one.run("ping -q -c 5 -i 0.05 10.98.0.2")
        one.run("ping -q -c 5 -i 0.05 -I 10.98.0.1 10.99.0.3")
        two.run("ping -q -c 5 -i 0.05 -I 10.99.0.2 10.98.0.3")
        three.run("ping -q -c 5 -i 0.05 -I 10.98.0.3 10.98.0.1")
    assert not plain_between(tmp_path / "c.pcap", addresses(rollout))
    assert sum(frame.dport == 51871 for frame in read(tmp_path / "c.pcap")) >= 40


def test_check_predicts_a_change_of_the_fleet_task_by_task(rollout: Fleet) -> None:
    change = ("-e", '{"wardmesh_config": {"debug": {"enabled": true}}, "wardmesh_labels": {"app": "web"}}')
    predicted = changed_tasks(rollout.play("wardmesh.fleet.site", "--check", "--diff", *change))
    before = [
        host.run("cat /etc/wardmesh/config.yaml /etc/wardmesh/fleet.json") for host in rollout.lab.hosts
    ]
    assert not any("app" in text.stdout for text in before)
    real = changed_tasks(rollout.play("wardmesh.fleet.site", *change))
    assert predicted == real
    assert {host for _task, host in real} == {"node1", "node2", "node3"}


def test_an_upgrade_that_fails_on_one_host_loses_nobody_and_leaks_nothing(
    rollout: Fleet, tmp_path: Path
) -> None:
    """node2 cannot take the new agent; the others are upgraded under a flood, with a capture running."""
    one, two, three = rollout.lab.hosts
    source = rollout.collections / "ansible_collections/wardmesh/fleet/agent/wardmesh/__init__.py"
    text = source.read_text()
    source.write_text(text.replace('"0.1.0"', '"0.1.1"'))
    two.run("mount --bind /usr/local/lib/wardmesh /usr/local/lib/wardmesh")
    two.run("mount -o remount,ro,bind /usr/local/lib/wardmesh")
    with rollout.lab.capture(tmp_path / "c.pcap"):
        running = [
            (one, pings.begin(one, three, "-i 0.02")),
            (two, pings.begin(two, one, "-i 0.02", "address6")),
        ]
        done = rollout.play("wardmesh.fleet.site", check=False)
        assert [pings.lost(host, unit, at_least=100) for host, unit in running] == [0, 0]
    two.run("umount /usr/local/lib/wardmesh")
    assert done.returncode == 2 and "failed=1" in done.stdout, done.stdout
    assert not plain_between(tmp_path / "c.pcap", addresses(rollout))
    assert len(list(read(tmp_path / "c.pcap"))) > 400
    assert peers(rollout) == {"node1": 2, "node2": 2, "node3": 2}
    assert [host.run("wardmesh version").stdout.split()[1] for host in (one, two, three)] == [
        "0.1.1",
        "0.1.0",
        "0.1.1",
    ]
    assert {
        task for task, host in changed_tasks(rollout.play("wardmesh.fleet.site")) if host != "node2"
    } == set()
    assert "0.1.1" in two.run("wardmesh version").stdout


def test_an_upgrade_is_rolled_back(rollout: Fleet) -> None:
    playbook = rollout.folder / "rollback.yml"
    playbook.write_text(ROLLBACK)
    rollout.play(str(playbook))
    for host in rollout.lab.hosts:
        assert "0.1.0" in host.run("wardmesh version").stdout
        host.run("wardmesh status --wait 120")


KEPT = "/var/lib/wardmesh/programs"
FULL = """
mount -t tmpfs -o size=256k tmpfs /mnt; cp -a {folder}/. /mnt; mount --bind /mnt {folder}
dd if=/dev/zero of=/mnt/fill bs=1k 2>/dev/null; cat /dev/zero >> /mnt/fill 2>/dev/null
{command}; result=$?
umount {folder} /mnt
exit $result
"""


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("/etc/wardmesh", "wardmesh fleet apply /tmp/newer.json"),
        ("/var/lib/wardmesh", "wardmesh encryption mode prefer"),
    ],
)
def test_a_full_disk_leaves_the_last_good_state(rollout: Fleet, folder: str, command: str) -> None:
    """The agent stands still meanwhile, so that what changes is the command's doing."""
    one, two = rollout.lab.hosts[:2]
    state = (
        "sha256sum /etc/wardmesh/fleet.json /var/lib/wardmesh/state.json; wg show wardmesh_wg0 peers | sort;"
        "wardmesh encryption mode"
    )
    label = f'{{"wardmesh_labels": {{"app": "{folder[-3:]}"}}}}'
    rollout.play("wardmesh.fleet.site", "--limit", "node2", "-e", label)
    put(one, "/tmp/newer.json", two.run("cat /etc/wardmesh/fleet.json").stdout.encode())
    before = one.run(state).stdout
    done = one.run(FULL.format(folder=folder, command=command), check=False)
    assert done.returncode != 0, done.stdout
    for word in ("No space left", folder, "remedy"):
        assert word in done.stderr, done.stderr
    assert one.run(state).stdout == before


@pytest.mark.parametrize(
    ("hide", "words"),
    [
        ("/usr/bin/wireguard-go", "wireguard-go"),
        ("/usr/lib/python3/dist-packages/bcc", "python3-bpfcc"),
        ("/usr/src", "linux-headers"),
    ],
)
def test_a_missing_part_is_named_and_nothing_opens(
    rollout: Fleet, tmp_path: Path, hide: str, words: str
) -> None:
    """The device, or all that was compiled, is gone as well, so that the agent needs the part."""
    one, two = rollout.lab.hosts[:2]
    tunnel = hide == "/usr/bin/wireguard-go"
    one.run("touch /run/empty-file; mkdir -p /run/empty-folder")
    one.run(f"mount --bind {'/run/empty-file' if tunnel else '/run/empty-folder'} {hide}")
    try:
        with rollout.lab.capture(tmp_path / "c.pcap"):
            flood = two.popen("ping -q -i 0.05 -w 8 10.99.0.1")
            one.run("systemctl stop wardmesh")
            one.run("ip link del wardmesh_wg0" if tunnel else f"rm -r /sys/fs/bpf/wardmesh {KEPT}")
            one.run("systemctl start wardmesh", check=False)
            one.run("ping -q -c 20 -i 0.05 10.99.0.2", check=False)
            flood.communicate(timeout=30)
        told = one.run("wardmesh status; journalctl -u wardmesh --no-pager -n 30", check=False)
    finally:
        one.run(f"umount {hide}; systemctl reset-failed wardmesh; systemctl restart wardmesh")
        one.run("wardmesh status --wait 120")
    assert words in told.stdout + told.stderr
    assert not plain_between(tmp_path / "c.pcap", addresses(rollout))
