# SPDX-License-Identifier: Apache-2.0
"""What other clusters read, written to a real etcd by one host at a time."""

from __future__ import annotations

from typing import Any

from etcd_server import Etcd
from tests.unit.agent.discovery.samples import CLUSTER, fleet, item

from wardmesh.discovery import etcd as client
from wardmesh.discovery.publisher import BEAT, CHECK, LOOK, Publisher
from wardmesh.discovery.records import read_cluster, read_identity, read_ip
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.identity import identities, member_labels

MAP = fleet(
    item(1, labels={"app": "web"}), item(2, addresses=["10.0.0.2", "fd00::2"], allowedIPs=["10.9.0.0/24"])
)
CANARIES = {f"cilium/synced/c/cilium/state/{kind}/v1" for kind in ("nodes", "services", "identities", "ip")}


class Host:
    """A publisher with a clock and a map of the test's own."""

    def __init__(self, etcd: Etcd, name: str, fleet_: FleetMap = MAP) -> None:
        self.now, self.fleet = 1000.0, fleet_
        settings = etcd.settings()
        self.connection = client.Etcd(settings, settings.servers[0])
        self.publisher = Publisher(CLUSTER, name, 60.0, lambda: self.fleet, lambda: self.now)

    def step(self, seconds: float = LOOK) -> bool:
        self.now += seconds
        self.connection.renew()
        return self.publisher.step(self.connection)


def stored(etcd: Etcd) -> dict[str, bytes]:
    settings = etcd.settings()
    connection = client.Etcd(settings, settings.servers[0])
    found = {entry.key: entry.value for entry in connection.listing("cilium/")[0]}
    connection.close()
    return found


def below(found: dict[str, bytes], prefix: str) -> dict[str, bytes]:
    return {key: value for key, value in found.items() if key.startswith(prefix)}


def pairs(found: dict[str, bytes]) -> dict[str, Any]:
    read = [read_ip(key, value) for key, value in below(found, "cilium/state/ip/v1/default/").items()]
    return {str(pair.network): (pair.identity, str(pair.host), pair.key) for pair in read}


def test_identities_addresses_and_the_cluster_are_there_for_others(etcd: Etcd) -> None:
    host = Host(etcd, "h1")
    assert host.step()
    found = stored(etcd)
    numbers = identities(MAP)
    for member in MAP.members:
        key = f"cilium/state/identities/v1/id/{numbers[member.name]}"
        assert read_identity(key, found[key]) == member_labels(member, "c")
        assert numbers[member.name] >> 16 == CLUSTER.id
    assert pairs(found) == {
        "10.0.0.1/32": (numbers["h1"], "10.0.0.1", 255),
        "10.0.0.2/32": (numbers["h2"], "10.0.0.2", 255),
        "fd00::2/128": (numbers["h2"], "fd00::2", 255),
        "10.9.0.0/24": (numbers["h2"], "10.0.0.2", 255),
    }
    config = read_cluster("k", found["cilium/cluster-config/c"])
    assert (config.id, config.canaries, config.cached) == (7, True, False)


def test_the_signs_that_all_is_there_wait_for_the_time_of_a_lease(etcd: Etcd) -> None:
    host = Host(etcd, "h1")
    host.step()
    host.step(59.0)
    assert below(stored(etcd), "cilium/synced/") == {}
    host.step(2.0)
    assert set(below(stored(etcd), "cilium/synced/")) == CANARIES


def test_a_changed_map_changes_what_differs_and_nothing_else(etcd: Etcd) -> None:
    host = Host(etcd, "h1")
    host.step()
    before = etcd.revision()
    host.step()
    assert etcd.revision() == before, "the same map writes nothing"
    host.fleet = fleet(item(1, labels={"app": "db"}))
    host.step()
    found = stored(etcd)
    assert set(pairs(found)) == {"10.0.0.1/32"}
    identity = below(found, "cilium/state/identities/")
    assert [b"vm:app=db;" in value for value in identity.values()] == [True]


def test_what_somebody_else_changed_is_put_right(etcd: Etcd) -> None:
    host = Host(etcd, "h1")
    host.step()
    good = stored(etcd)
    etcd.ctl("del", "cilium/state/ip/v1/default/10.0.0.1")
    etcd.ctl("put", "cilium/state/ip/v1/default/10.0.0.99", text="x")
    host.step(CHECK)
    found = stored(etcd)
    assert below(found, "cilium/state/") == below(good, "cilium/state/")


def test_one_host_publishes_and_another_takes_over_when_its_lease_ends(etcd: Etcd) -> None:
    first, second = Host(etcd, "h1"), Host(etcd, "h2")
    assert (first.step(), second.step()) == (True, False)
    assert (first.step(), second.step()) == (True, False)
    etcd.ctl("lease", "revoke", f"{first.connection.lease:x}")
    assert second.step()
    assert not first.step()


def test_the_heart_beats(etcd: Etcd) -> None:
    host = Host(etcd, "h1")
    host.step()

    def beats() -> int:
        entry = host.connection.get("cilium/.heartbeat")
        return entry.changed if entry else 0

    before = beats()
    host.step(BEAT / 2)
    assert beats() == before
    host.step(BEAT)
    assert beats() > before
