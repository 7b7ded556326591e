# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a fleet's life, and what must hold meanwhile.

Every host knocks on two UDP ports of every other all the time: one that the policy allows, one that it
denies. A capture runs from before each fault until the fleet is whole again. Whatever the fault: no plain
packet between members, never an answer from a denied port, pairs that the fault does not part go on, and the
fleet is whole afterwards by itself. `pytest -s` prints the figures of docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.waiting import wait_for

import faults
from conftest import Fleet, changed
from lab import Host, Lab
from lab.pcap import plain_between, read

pytestmark = [pytest.mark.container, pytest.mark.beside]
KNOCK = Path(__file__).with_name("programs") / "knock.py"
PAUSE = 0.04  # seconds between two datagrams to one port
CONFIG = {"wardmesh_config": {"hostFirewall": {"enabled": True}}}
OPEN = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: open}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [all]
    toPorts: [{ports: [{port: "PORT", protocol: UDP}]}]
"""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Fault:
    """hold: seconds that it lasts; apart: hosts that it parts from all others."""

    name: str
    make: Callable[[Lab], contextlib.AbstractContextManager[None]]
    hold: float
    apart: frozenset[str] = frozenset()


FAULTS = (
    Fault("one host without a cable", faults.cut_off, 8, frozenset({"node3"})),
    Fault("the fleet in two halves", faults.halves, 8, frozenset({"node1"})),
    Fault("10 % of all frames lost", faults.loss, 5),
    Fault("every datagram of the tunnel twice", faults.duplicates, 5),
    Fault("a third of the tunnel's datagrams out of order", faults.disorder, 5),
    Fault("disk full, agent killed in it", faults.full_disk, 3),
    Fault("agent killed by the kernel for memory", faults.out_of_memory, 3),
    Fault("every agent killed at once", faults.killed, 3),
    Fault("agents stopped in the middle of a change", faults.stopped, 3),
)


@dataclass
class Crowd:
    """The fleet and what its knocking told."""

    fleet: Fleet
    figures: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> list[Host]:
        return self.fleet.lab.hosts

    def told(self, port: int, without: frozenset[str] = frozenset()) -> dict[Pair, dict[str, float]]:
        """By pair: sent, answered, and the longest silence so far. Hosts out of reach are left out."""
        asked = [host for host in self.hosts if host.name not in without]
        with ThreadPoolExecutor(len(asked)) as pool:
            texts = pool.map(lambda host: (host, host.run("cat /run/knock.json", check=False).stdout), asked)
        found = {}
        for source, text in texts:
            counts = json.loads(text) if text else {}
            for target in self.hosts:
                if counts and target != source:
                    found[source.name, target.name] = counts[f"{target.address}/{port}"]
        return found

    def knock(self, host: Host) -> None:
        """Begin anew, with counters of zero."""
        targets = " ".join(
            f"{other.address}/{port}" for other in self.hosts if other != host for port in (7001, 7002)
        )
        host.run(
            "systemctl stop knock 2>/dev/null; rm -f /run/knock.json; systemd-run -q --collect --unit=knock "
            f"python3 /run/knock.py talk /run/knock.json {PAUSE} {targets}; "
            "while [ ! -s /run/knock.json ]; do sleep 0.05; done"
        )

    def go_on(self, before: dict[Pair, dict[str, float]], apart: frozenset[str] = frozenset()) -> bool:
        """Has every pair had ten more answers than before? Those with a host that is apart do not count."""
        now = self.told(7001, apart)
        pairs = [pair for pair in before if not apart & set(pair)]
        return all(pair in now and now[pair]["answered"] >= before[pair]["answered"] + 10 for pair in pairs)

    def whole(self) -> bool:
        """What the agents say: every tunnel up, everything sealed, no problem left."""
        for host in self.hosts:
            done = host.run("wardmesh status -o json", check=False)
            if done.returncode:
                return False
            found = json.loads(done.stdout)
            rows = [(row["sealed"], row["tunnel"]) for row in found["peers"]]
            if found["mode"] != "strict" or found["problems"] or rows != [(True, "up")] * 2:
                return False
        return True


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """Three hosts with the firewall on, a policy in force and listeners behind both ports."""
    made = Fleet(Lab.up(3, "failures"), tmp_path_factory.mktemp("failures"), compiled=False)
    made.play("site", "-e", json.dumps(CONFIG))
    crowd = Crowd(made)
    for host in crowd.hosts:
        host.put(KNOCK, "/run/knock.py")
        host.run("systemd-run -q --unit=listen python3 /run/knock.py serve 7001 7002 7003")
        host.run("mkdir -p /run/p; cat > /run/p/open.yaml", stdin=OPEN.replace("PORT", "7001"))
        host.run("wardmesh policy apply /run/p --replace")
    yield crowd
    made.lab.down()
    print("\n" + "\n".join(crowd.figures))


@contextlib.contextmanager
def watched(crowd: Crowd, path: Path, name: str) -> Iterator[dict[Pair, dict[str, float]]]:
    """Knocking and a capture around the block and until the fleet is whole; then the promises are judged.

    Yields what becomes the counters of the allowed port at the end.
    """
    allowed: dict[Pair, dict[str, float]] = {}
    lab = crowd.fleet.lab
    members = {address for host in lab.hosts for address in (host.address, host.address6)}
    with lab.capture(path / "wire.pcap"):
        for host in lab.hosts:
            crowd.knock(host)
        start = crowd.told(7001)
        wait_for(lambda: crowd.go_on(start), "everybody is answered", pause=0.3)
        yield allowed
        began = time.monotonic()
        after = wait_for(
            lambda: len(crowd.told(7001)) == 6 and crowd.told(7001), "all are in reach", 120, 0.3
        )
        wait_for(lambda: crowd.go_on(after), "everybody is answered again", 120, 0.3)
        wait_for(crowd.whole, "the fleet is whole", 120, 0.5)
        back = time.monotonic() - began
        denied = crowd.told(7002)
        allowed.update(crowd.told(7001))
    plain = plain_between(path / "wire.pcap", members)
    sent = int(sum(row["sent"] for row in denied.values()))
    silence = max(row["longest"] for row in allowed.values())
    crowd.figures.append(
        f"| {name} | {len(list(read(path / 'wire.pcap')))} frames, {len(plain)} plain | {sent} asked, "
        f"{int(sum(row['answered'] for row in denied.values()))} answered | {silence:.1f} s "
        f"| {back:.1f} s |"
    )
    assert not plain, plain[:5]
    assert sent > 100 and not [pair for pair, row in denied.items() if row["answered"]]


def test_agents_that_are_stopped_in_the_middle_of_a_rollout(crowd: Crowd, tmp_path: Path) -> None:
    """Everybody gets another label; two agents stop as soon as one has the map. The next run mends that."""
    # Before the faults: one of them brings maps that no registry knows.
    two, three = crowd.hosts[1:]
    wish = json.dumps({**CONFIG, "wardmesh_labels": {"turn": "stopped"}})

    def strike() -> None:
        look = "grep -q stopped /etc/wardmesh/fleet.json"
        wait_for(lambda: two.run(look, check=False).returncode == 0, "node2 has the map", 300, 0.05)
        for host in (two, three):
            host.run("systemctl stop wardmesh")

    with watched(crowd, tmp_path, "agents stopped in the middle of a rollout"):
        with ThreadPoolExecutor(1) as pool:
            striking = pool.submit(strike)
            crowd.fleet.play("site", "-e", wish, check=False)
            striking.result(300)
        crowd.fleet.play("site", "-e", wish)
    assert set(changed(crowd.fleet.play("site", "-e", wish)).values()) == {0}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_no_fault_leaks_or_opens_and_the_fleet_heals(crowd: Crowd, tmp_path: Path, fault: Fault) -> None:
    with watched(crowd, tmp_path, fault.name) as allowed, fault.make(crowd.fleet.lab):
        end = time.monotonic() + fault.hold
        # Pairs that it does not part go on, from its first second to its last.
        while time.monotonic() < end:
            going = functools.partial(crowd.go_on, crowd.told(7001, fault.apart), fault.apart)
            wait_for(going, "the others go on", pause=0.3)
    for pair, row in allowed.items():
        if fault.apart & set(pair):
            assert row["longest"] > fault.hold / 2, f"{pair} was to be parted, and went on"
