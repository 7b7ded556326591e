# SPDX-License-Identifier: Apache-2.0
"""What both WireGuard backends offer, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint, Network


@dataclass(frozen=True)
class PeerConfig:
    """A peer as it should be; endpoint None leaves the device's own knowledge alone."""

    key: str
    endpoint: Endpoint | None
    allowed_ips: frozenset[Network]
    keepalive: int = 0


@dataclass(frozen=True)
class PeerState:
    """A peer as the device has it; last_handshake in unix seconds, 0 is never."""

    key: str
    endpoint: Endpoint | None
    allowed_ips: frozenset[Network]
    keepalive: int
    last_handshake: float
    rx_bytes: int
    tx_bytes: int


@dataclass(frozen=True)
class DeviceState:
    """One device with its peers by public key."""

    public_key: str
    listen_port: int
    fwmark: int
    peers: Mapping[str, PeerState] = field(default_factory=dict)


@dataclass(frozen=True)
class PeerChanges:
    """A delta: set adds or changes a peer (its allowed IPs are replaced), remove is by key."""

    set: tuple[PeerConfig, ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.remove)


class Backend(Protocol):
    """One implementation of WireGuard."""

    name: str

    def create(self, ifname: str) -> None: ...

    def remove(self, ifname: str) -> None: ...

    def configure(self, ifname: str, private_key: bytes, listen_port: int, fwmark: int) -> None: ...

    def dump(self, ifname: str) -> DeviceState: ...

    def apply(self, ifname: str, changes: PeerChanges) -> None: ...

    def provoke(self, ifname: str, peers: Iterable[PeerState]) -> None: ...


def choose_backend(preference: str) -> Backend:
    """The kernel's WireGuard first, wireguard-go where the kernel has none."""
    from wardmesh.wireguard import kernel, userspace

    if preference in ("auto", "kernel") and kernel.available():
        return kernel.KernelBackend()
    if preference in ("auto", "userspace") and userspace.available():
        return userspace.UserspaceBackend()
    raise WardmeshError(
        "no WireGuard on this host",
        where="encryption.backend: " + preference,
        why={
            "kernel": "the kernel has no wireguard module",
            "userspace": "wireguard-go is not installed",
        }.get(preference, "the kernel has no wireguard module and wireguard-go is not installed"),
        remedy="load the kernel module (modprobe wireguard), or install the package wireguard-go",
    )
