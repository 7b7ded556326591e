# SPDX-License-Identifier: Apache-2.0
"""One WireGuard device kept as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wardmesh.datapath.contract import MARK
from wardmesh.model.fleetmap import Endpoint
from wardmesh.wireguard.backend import Backend, DeviceState, PeerConfig
from wardmesh.wireguard.keys import load_private, public_of
from wardmesh.wireguard.peers import diff_peers

OVERHEAD = 80  # 40 IPv6 + 8 UDP + 32 WireGuard, as upstream (pkg/mtu)


class Tunnel:
    """Owns one interface; compares the device itself, not files."""

    def __init__(self, backend: Backend, ifname: str, key: Path) -> None:
        self.backend = backend
        self.ifname = ifname
        self._key = key
        self._written: dict[str, Endpoint | None] = {}

    def index(self, ipr: Any) -> int:
        """Interface index, 0 where there is no device."""
        found = ipr.link_lookup(ifname=self.ifname)
        return int(found[0]) if found else 0

    def reconcile_device(self, ipr: Any, listen_port: int, mtu: int) -> list[str]:
        """The device exists, is up, has our key, port, mark and MTU."""
        changes = []
        if not self.index(ipr):
            self.backend.create(self.ifname)
            self._written.clear()
            changes.append(f"wireguard interface {self.ifname}")
        private = load_private(self._key)
        state = self.backend.dump(self.ifname)
        if (state.public_key, state.listen_port, state.fwmark) != (public_of(private), listen_port, MARK):
            self.backend.configure(self.ifname, private, listen_port, MARK)
            changes.append("wireguard device settings")
        index = self.index(ipr)
        link = ipr.get_links(index)[0]
        if link.get_attr("IFLA_MTU") != mtu:
            ipr.link("set", index=index, mtu=mtu)
            changes.append(f"wireguard mtu {mtu}")
        if not link["flags"] & 1:
            with suppress(
                OSError
            ):  # no IPv6 here; else: no link-local address, no router solicitation through it
                Path(f"/proc/sys/net/ipv6/conf/{self.ifname}/addr_gen_mode").write_text("1", encoding="ascii")
            ipr.link("set", index=index, state="up")
            changes.append("wireguard interface up")
        return changes

    def reconcile_peers(self, desired: Mapping[str, PeerConfig], names: Mapping[str, str]) -> list[str]:
        """The device has exactly the desired peers; names are for the log."""
        delta = diff_peers(desired, self.backend.dump(self.ifname).peers, self._written)
        if delta:
            self.backend.apply(self.ifname, delta)
        self._written = {key: peer.endpoint for key, peer in desired.items()}
        changes = [f"wireguard peer {names.get(peer.key, peer.key[:8])}" for peer in delta.set]
        return changes + [f"wireguard peer {names.get(key, key[:8])} removed" for key in delta.remove]

    def state(self) -> DeviceState:
        """The device as it is."""
        return self.backend.dump(self.ifname)
