# SPDX-License-Identifier: Apache-2.0
"""One WireGuard device, kept as it should be."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wardmesh.host.netlink import Netlink
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint
from wardmesh.wireguard import links
from wardmesh.wireguard.backend import Backend, DeviceState, PeerChanges, PeerConfig, PeerState
from wardmesh.wireguard.keys import public_of
from wardmesh.wireguard.mark import INTERFACE, LOOSE_ADDRESS, MARK
from wardmesh.wireguard.peers import diff_peers


@dataclass(frozen=True)
class TunnelDesired:
    """What the device should be.

    private_key: 32 bytes, never printed; mtu in bytes; peers by public key; names: member names by public
    key, for the change lines; lost: keys of peers that do not answer, whose endpoint returns to the map's.
    """

    private_key: bytes = field(repr=False)
    listen_port: int
    mtu: int
    peers: Mapping[str, PeerConfig]
    names: Mapping[str, str] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    fwmark: int = MARK


class Tunnel:
    """Owns one interface. Compares the device itself, so what somebody changed by hand comes back."""

    def __init__(self, backend: Backend, ifname: str = INTERFACE) -> None:
        self.backend = backend
        self.ifname = ifname
        self._written: dict[str, Endpoint | None] = {}
        self._agreed: Mapping[str, PeerState] | None = None  # the device's peers when they were as desired
        self._desired: Mapping[str, PeerConfig] | None = None
        self._state = DeviceState(0, "", 0, 0)
        self._names: Mapping[str, str] = {}  # of the last pass: a removed peer's is no longer in the wishes

    @property
    def state(self) -> DeviceState:
        """The device as the last reconcile or refresh read it; ifindex 0 where there is none."""
        return self._state

    def refresh(self) -> DeviceState:
        """Read the device anew."""
        self._state = self.backend.dump(self.ifname)
        return self._state

    def reconcile(self, desired: TunnelDesired) -> list[str]:
        """Make the device what it should be; a line for every change, none when nothing was to do."""
        lines = []
        if not self.backend.exists(self.ifname):
            self.backend.create(self.ifname)
            self._written.clear()
            self._agreed = None
            lines.append(f"interface {self.ifname} created ({self.backend.name})")
        state = self.refresh()
        lines += self._reconcile_settings(desired, state)
        lines += self._reconcile_peers(desired, self._state)
        lines += self._reconcile_link(desired.mtu)
        return lines

    def _reconcile_settings(self, desired: TunnelDesired, state: DeviceState) -> list[str]:
        wanted = (public_of(desired.private_key), desired.listen_port, desired.fwmark)
        found = (state.public_key, state.listen_port, state.fwmark)
        if found == wanted:
            return []
        if state.peers and state.public_key != wanted[0]:
            # Their last handshakes were the old key's; anew, a handshake proves the new one.
            self.backend.apply(self.ifname, PeerChanges(remove=tuple(state.peers)))
            self._written.clear()
            self._agreed = None
            self.refresh()
        self.backend.configure(self.ifname, desired.private_key, desired.listen_port, desired.fwmark)
        names = ("key", "port", "mark")
        changed = [name for name, old, new in zip(names, found, wanted) if old != new]
        return [f"interface {self.ifname}: {', '.join(changed)} set"]

    def _reconcile_peers(self, desired: TunnelDesired, state: DeviceState) -> list[str]:
        if self._desired is not desired.peers:
            self._agreed = None
            self._desired = desired.peers
        if self._settled(desired, state):
            return []
        changes = diff_peers(desired.peers, state.peers, self._written, desired.lost)
        self._written = {key: peer.endpoint for key, peer in desired.peers.items()}
        if not changes:
            self._agreed = state.peers
            return []
        self.backend.apply(self.ifname, changes)
        self.refresh()
        lines = change_lines(changes, {**self._names, **desired.names})
        self._names = desired.names
        return lines

    def _settled(self, desired: TunnelDesired, state: DeviceState) -> bool:
        """Nothing to compare: the same wishes as last time, and only counters moved on the device."""
        if desired.lost or self._agreed is None or len(state.peers) != len(self._agreed):
            return False
        for key, peer in state.peers.items():
            before = self._agreed.get(key)
            if before is peer:
                continue
            if before is None or _settings(before) != _settings(peer):
                return False
        self._agreed = state.peers
        return True

    def _reconcile_link(self, mtu: int) -> list[str]:
        lines = []
        with Netlink() as link:
            found = links.find_link(link, self.ifname)
            if found is None:
                raise WardmeshError(
                    "the interface vanished while it was set up",
                    where=self.ifname,
                    remedy="the next pass tries again",
                )
            try:
                if found.mtu != mtu:
                    links.set_mtu(link, found.ifindex, mtu)
                    lines.append(f"interface {self.ifname}: mtu {mtu}")
                if links.add_host_address(link, found.ifindex, LOOSE_ADDRESS):
                    lines.append(f"interface {self.ifname}: address {LOOSE_ADDRESS}")
                if not found.up:
                    self._no_autoconfiguration(link, found.ifindex)
                    links.set_up(link, found.ifindex)
                    lines.append(f"interface {self.ifname}: up")
            except OSError as error:
                why = (
                    "the UDP port is taken"
                    if error.errno == errno.EADDRINUSE
                    else error.strerror or str(error)
                )
                raise WardmeshError("cannot set up the interface", where=self.ifname, why=why) from error
        return lines

    @staticmethod
    def _no_autoconfiguration(link: Netlink, ifindex: int) -> None:
        try:
            links.set_no_autoconfiguration(link, ifindex)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):  # no IPv6 here
                raise

    def provoke(self, keys: Iterable[str]) -> None:
        """Start handshakes with these peers, of those that the device has with an endpoint."""
        known = [self._state.peers[key] for key in keys if key in self._state.peers]
        self.backend.provoke(self.ifname, [peer for peer in known if peer.endpoint is not None])

    def teardown(self) -> list[str]:
        """Remove the device, and what runs it."""
        present = self.backend.exists(self.ifname)
        self.backend.remove(self.ifname)
        self._written.clear()
        self._agreed = None
        self._state = DeviceState(0, "", 0, 0)
        return [f"interface {self.ifname} removed"] if present else []


def _settings(peer: PeerState) -> tuple[object, ...]:
    """What we set of a peer, without its counters."""
    return peer.endpoint, peer.keepalive, peer.allowed_ips


def change_lines(changes: PeerChanges, names: Mapping[str, str]) -> list[str]:
    """A line for each peer; peers without a name by the beginning of their key."""

    def name(key: str) -> str:
        return names.get(key, f"{key[:10]}…")

    changed = dict.fromkeys(update.key for update in changes.update)
    return [
        *(f"peer {name(peer.key)} added" for peer in changes.add),
        *(f"peer {name(key)} changed" for key in changed),
        *(f"peer {name(key)} removed" for key in changes.remove),
    ]
