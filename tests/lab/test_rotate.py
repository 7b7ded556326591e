# SPDX-License-Identifier: Apache-2.0
"""Keys rotate by the playbook, on real hosts, under probes; a run is cut short and taken up again."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pings
from conftest import Fleet, changed
from lab import Host, Lab
from lab.pcap import plain_between, read

# Lines that come back in order until the file appears; a reset or a gap is an error.
STREAM = """
import os, socket, sys, time
link = socket.create_connection((sys.argv[1], 8001), timeout=30)
reader, count = link.makefile("rb"), 0
while not os.path.exists("/run/enough"):
    line = b"secret-text %d\\n" % count
    link.sendall(line)
    assert reader.readline() == line
    count += 1
    time.sleep(0.005)
print(count)
"""
ECHO = """
import socket, threading
listener = socket.create_server(("::", 8001), family=socket.AF_INET6, dualstack_ipv6=True)
def answer(link):
    while data := link.recv(65536): link.sendall(data)
while True: threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""
PORTS = (51871, 51872)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three strict hosts that echo."""
    made = Fleet(Lab.up(3, "rotate"), tmp_path_factory.mktemp("rotate"), compiled=False)
    made.play("site")
    for host in made.lab.hosts:
        for name, text in (("echo", ECHO), ("stream", STREAM)):
            host.run(f"cat > /run/{name}.py", stdin=text)
        host.run("systemd-run -q --unit=echo python3 /run/echo.py; sleep 0.5")
    yield made
    made.lab.down()


def registry(fleet: Fleet) -> dict[str, Any]:
    """The controller's file."""
    return dict(json.loads((fleet.folder / "wardmesh-registry.json").read_text())["members"])


def keys(fleet: Fleet) -> dict[str, str]:
    """Public keys by name."""
    return {name: str(entry["key"]) for name, entry in registry(fleet).items()}


def rotation(host: Host) -> dict[str, Any]:
    """Where the host stands."""
    return dict(json.loads(host.run("wardmesh encryption rotate --json").stdout))


@contextmanager
def probes(fleet: Fleet, file: Path) -> Iterator[None]:
    """Pings (the next one when the last is answered) and streams between every pair, both ways: none is lost,
    none is cut, nothing is plain on the wire."""
    hosts = fleet.lab.hosts
    with fleet.lab.capture(file):
        streams, running = {}, {}
        for one, other in itertools.permutations(hosts, 2):
            streams[one.name, other.name] = one.popen(f"python3 /run/stream.py {other.address6}")
            running[one.name, other.name] = (one, pings.begin(one, other))
        time.sleep(1)
        yield
        for host in hosts:
            host.run("touch /run/enough")
        counts = {pair: _finished(stream) for pair, stream in streams.items()}
        losses = {pair: pings.lost(host, unit) for pair, (host, unit) in running.items()}
        for host in hosts:
            host.run("rm /run/enough")
    assert set(losses.values()) == {0}, losses
    assert min(counts.values()) > 100, counts
    addresses = {address for host in hosts for address in (host.address, host.address6)}
    assert not plain_between(file, addresses, PORTS)
    assert len(list(read(file))) > 5000


def _finished(stream: subprocess.Popen[str]) -> int:
    out, error = stream.communicate(timeout=60)
    assert stream.returncode == 0, error
    return int(out.split()[0])


def rotated(fleet: Fleet, before: dict[str, str]) -> set[str]:
    """Who has another key; nobody anywhere knows the old one, and the second tunnel is gone."""
    after = keys(fleet)
    gone = {name for name in after if after[name] != before[name]}
    for host in fleet.lab.hosts:
        known = host.run("wg show all dump; ip -br link; ls /var/lib/wardmesh/keys").stdout
        assert all(key in known for key in after.values())
        assert not any(before[name] in known for name in gone)
        assert "wardmesh_wg1" not in known and "next.key" not in known
        assert rotation(host)["phase"] == "none"
    return gone


def test_a_rotation_of_all_that_is_interrupted_and_taken_up_again_loses_nothing(
    mesh: Fleet, tmp_path: Path
) -> None:
    before, three = keys(mesh), mesh.lab.hosts[2]

    def strike() -> None:
        while "next_key" not in registry(mesh).get("node2", {}):
            time.sleep(0.1)
        while rotation(three)["phase"] == "none":
            time.sleep(0.1)
        three.run("systemctl kill -s KILL wardmesh; systemctl stop wardmesh")

    with probes(mesh, tmp_path / "c.pcap"):
        striking = threading.Thread(target=strike)
        striking.start()
        broken = mesh.play("rotate_keys", "-e", "wardmesh_rotate_wait=20", check=False)
        striking.join(60)
        assert broken.returncode != 0 and "node3" in broken.stdout
        assert keys(mesh) == before, "nothing is retired while one is missing"
        three.run("systemctl start wardmesh && wardmesh status --wait 120")
        done = mesh.play("rotate_keys")
    assert all(changed(done).values())
    assert rotated(mesh, before) == {"node1", "node2", "node3"}, "the unfinished rotation, and no new one"
    private = [host.run("cat /var/lib/wardmesh/keys/wg0.key").stdout.strip() for host in mesh.lab.hosts]
    assert not any(key in mesh.output for key in private)
    assert set(changed(mesh.play("site")).values()) == {0}


def test_check_mode_predicts_and_changes_nothing(mesh: Fleet) -> None:
    before = registry(mesh)
    done = mesh.play("rotate_keys", "--check")
    assert all(changed(done).values())
    assert registry(mesh) == before
    assert {rotation(host)["phase"] for host in mesh.lab.hosts} == {"none"}
    assert {rotation(host)["staged"] for host in mesh.lab.hosts} == {""}


def test_a_compromised_key_is_dropped_and_the_host_is_back(mesh: Fleet) -> None:
    before = keys(mesh)
    mesh.play("rotate_keys", "-e", "wardmesh_compromised=node2")
    assert rotated(mesh, before) == {"node2"}
    mesh.lab.hosts[0].run("ping -q -c 3 -i 0.2 10.99.0.2")
