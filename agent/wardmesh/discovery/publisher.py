# SPDX-License-Identifier: Apache-2.0
"""What other clusters read of this one beside its members' own records: identities, addresses, the cluster.

Hosts that run the store publish, one of them at a time; the others wait for its lease to end. Everything
follows from the map in force, so refused records never show up here, and no other host needs the right to
write more than its own record. Records have no lease: they change when the map does. The order is upstream's:
the cluster's configuration, identities, addresses; the signs that all is there come last, and after a loss of
data only when members had the time of a lease to come back. Deletion goes the other way round.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wardmesh.discovery.etcd import Etcd
from wardmesh.discovery.keys import (
    ADDRESSES,
    CANARIES,
    HEARTBEAT,
    IDENTITIES,
    cluster_key,
    identity_key,
    publisher_key,
    synced_prefix,
)
from wardmesh.discovery.records import (
    ClusterConfig,
    IpPair,
    write_cluster,
    write_identity,
    write_ip,
)
from wardmesh.model.config import Cluster
from wardmesh.model.fleetmap import Address, FleetMap
from wardmesh.model.identity import identities, member_labels

BEAT = 60.0  # seconds between two heartbeats; readers give up after 120
CHECK = 300.0  # seconds until everything is compared anew, upstream's interval
LOOK = 1.0  # seconds between two looks at the map and at who publishes


def identity_records(fleet: FleetMap) -> dict[str, bytes]:
    """Labels of every identity, by the store's key."""
    numbers = identities(fleet)
    return {
        identity_key(numbers[member.name]): write_identity(member_labels(member, fleet.cluster.name))
        for member in fleet.home
    }


def address_records(fleet: FleetMap) -> dict[str, bytes]:
    """Identity of every address and subnet, by the store's key. The host is a member's primary address."""
    numbers = identities(fleet)
    pairs = [
        IpPair(ipaddress.ip_network(address), numbers[member.name], _host(member.addresses, address.version))
        for member in fleet.home
        for address in member.addresses
    ]
    pairs += [
        IpPair(network, numbers[member.name], _host(member.addresses, network.version), bare=False)
        for member in fleet.home
        for network in member.allowed_ips
    ]
    return {pair.store_key(): write_ip(pair) for pair in pairs}


def _host(addresses: tuple[Address, ...], version: int) -> Address:
    """The member's own address of the same version, else the primary one."""
    return next((address for address in addresses if address.version == version), addresses[0])


@dataclass
class Publisher:
    """One host's part. fleet: the map in force, None while nobody knows it; lease: seconds."""

    cluster: Cluster
    own: str
    lease: float
    fleet: Callable[[], FleetMap | None]
    clock: Callable[[], float] = time.monotonic
    _written: FleetMap | None = None
    _look_at: float = 0.0
    _beat_at: float = 0.0
    _check_at: float = 0.0
    _complete_at: float | None = None
    _leads: bool = False
    _connection: object = field(default=None)

    def step(self, etcd: Etcd) -> bool:
        """Do what is due; is this the host that publishes?"""
        now = self.clock()
        if etcd is not self._connection:  # another one may have written since
            self._connection, self._written, self._complete_at = etcd, None, None
            self._look_at = self._check_at = 0.0
        if now < self._look_at:
            return self._leads
        self._look_at = now + LOOK
        self._leads = self._lead(etcd)
        fleet = self.fleet()
        if not self._leads or fleet is None:
            return self._leads
        if fleet != self._written or now >= self._check_at:
            self._write(etcd, fleet)
            self._written, self._check_at = fleet, now + CHECK
        self._complete(etcd, now)
        if now >= self._beat_at:
            etcd.keep(HEARTBEAT, _time())
            self._beat_at = now + BEAT
        return True

    def _lead(self, etcd: Etcd) -> bool:
        key = publisher_key(self.cluster.name)
        if etcd.claim(key, self.own.encode()):
            return True
        held = etcd.get(key)
        return held is not None and held.lease == etcd.lease

    def _write(self, etcd: Etcd, fleet: FleetMap) -> None:
        config = {
            cluster_key(self.cluster.name): write_cluster(ClusterConfig(self.cluster.id, canaries=True))
        }
        found = etcd.get(cluster_key(self.cluster.name))
        _put(etcd, config, {found.key: found.value} if found else {})
        names, addresses = identity_records(fleet), address_records(fleet)
        old_names, old_addresses = _have(etcd, IDENTITIES), _have(etcd, ADDRESSES)
        _put(etcd, names, old_names)
        _put(etcd, addresses, old_addresses)
        for key in [*(old_addresses.keys() - addresses.keys()), *(old_names.keys() - names.keys())]:
            etcd.remove(key)

    def _complete(self, etcd: Etcd, now: float) -> None:
        """The signs. Where they are missing, members' records may have been lost as well: wait for those."""
        if self._complete_at is not None and now < self._complete_at:
            return
        prefix = synced_prefix(self.cluster.name)
        have = _have(etcd, prefix)
        missing = [prefix + kind for kind in CANARIES if prefix + kind not in have]
        if missing and self._complete_at is None:
            self._complete_at = now + self.lease
            return
        for key in missing:
            etcd.keep(key, _time())
        self._complete_at = now + CHECK


def _have(etcd: Etcd, prefix: str) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in etcd.listing(prefix)[0]}


def _put(etcd: Etcd, wanted: Mapping[str, bytes], have: Mapping[str, bytes]) -> None:
    for key, value in wanted.items():
        if have.get(key) != value:
            etcd.keep(key, value)


def _time() -> bytes:
    """Only that it changes counts; no reader looks at it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()).encode()
