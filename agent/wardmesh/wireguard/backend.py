# SPDX-License-Identifier: Apache-2.0
"""What both WireGuard backends offer, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint, Network

PROVOKING_KEEPALIVE = 25  # seconds; any value but 0 makes WireGuard send at once when it was 0


@dataclass(frozen=True)
class PeerConfig:
    """A peer as it should be; endpoint None: it will come to us. keepalive in seconds, 0 is off."""

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
    """One device with its peers by public key; public_key "" where it has none yet."""

    ifindex: int
    public_key: str
    listen_port: int
    fwmark: int
    peers: Mapping[str, PeerState] = field(default_factory=dict)


@dataclass(frozen=True)
class PeerUpdate:
    """What to change of a peer that the device has; None and empty leave a thing alone.

    gained is added to its allowed IPs (and leaves another peer that had it); allowed_ips, when not None,
    replaces them all: no interface of WireGuard can take a single one away. loses is for who compares.
    """

    key: str
    endpoint: Endpoint | None = None
    keepalive: int | None = None
    gained: frozenset[Network] = frozenset()
    allowed_ips: frozenset[Network] | None = None
    loses: frozenset[Network] = frozenset()


@dataclass(frozen=True)
class PeerChanges:
    """A delta. A backend applies it in the order add, update, remove (see peers.py for why)."""

    add: tuple[PeerConfig, ...] = ()
    update: tuple[PeerUpdate, ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.update or self.remove)


class Backend(Protocol):
    """One implementation of WireGuard. A failure is a WardmeshError."""

    name: str

    def create(self, ifname: str) -> None:
        """Make the device; one that is left over from the other backend is replaced."""

    def remove(self, ifname: str) -> None:
        """Delete the device, and what runs it; nothing happens where there is none."""

    def exists(self, ifname: str) -> bool:
        """Is there such a device, and is it this backend's?"""

    def configure(self, ifname: str, private_key: bytes, listen_port: int, fwmark: int) -> None:
        """Key (32 bytes), UDP port and the mark of outgoing packets; peers stay."""

    def dump(self, ifname: str) -> DeviceState:
        """The device as it is. A peer that did not change is the same object as in the last dump."""

    def apply(self, ifname: str, changes: PeerChanges) -> None:
        """Send a delta; peers that it does not name are not touched."""

    def provoke(self, ifname: str, peers: Iterable[PeerState]) -> None:
        """Make WireGuard send to these peers now, which starts a handshake where there is no session."""


def choose_backend(preference: str) -> Backend:
    """The kernel's WireGuard first, wireguard-go where the kernel has none.

    preference: "auto", "kernel" or "userspace" (configuration key encryption.backend).
    """
    from wardmesh.wireguard.kernel import KernelBackend
    from wardmesh.wireguard.userspace import UserspaceBackend

    reasons = []
    if preference in ("auto", "kernel"):
        reason = KernelBackend.unavailable()
        if not reason:
            return KernelBackend()
        reasons.append(reason)
    if preference in ("auto", "userspace"):
        reason = UserspaceBackend.unavailable()
        if not reason:
            return UserspaceBackend()
        reasons.append(reason)
    raise WardmeshError(
        "no WireGuard on this host",
        where=f"encryption.backend: {preference}",
        why="; ".join(reasons),
        remedy="load the kernel's module (modprobe wireguard; Debian, Ubuntu: package linux-image-*, "
        "RHEL: kernel-modules), or install the package wireguard-go",
    )
