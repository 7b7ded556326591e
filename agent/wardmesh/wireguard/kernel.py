# SPDX-License-Identifier: Apache-2.0
"""The kernel's WireGuard, by generic netlink.

pyroute2 sends one peer per message and its flags differ between versions, so the messages are put
together here: many peers in one message, flags as in the kernel's uapi/linux/wireguard.h.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint
from wardmesh.wireguard.backend import DeviceState, PeerChanges, PeerConfig, PeerState

REMOVE_ME, REPLACE_ALLOWED_IPS, UPDATE_ONLY = 1, 2, 4
_BATCH = 64  # peers in one message: stays far below the 64 KiB of a netlink attribute
_PROBE = "wardmesh_probe"


def available() -> bool:
    """Can this kernel make a WireGuard device? Asked by making one."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ipr:
        try:
            ipr.link("add", ifname=_PROBE, kind="wireguard")
        except NetlinkError as error:
            if error.code in (errno.EOPNOTSUPP, errno.ENODEV):
                return False
            if error.code != errno.EEXIST:
                raise WardmeshError(
                    "cannot make a WireGuard device", why=str(error), remedy="the agent needs CAP_NET_ADMIN"
                ) from error
        ipr.link("del", index=ipr.link_lookup(ifname=_PROBE)[0])
    return True


def _attrs(peer: PeerConfig) -> dict[str, Any]:
    attrs: list[list[Any]] = [["WGPEER_A_PUBLIC_KEY", peer.key], ["WGPEER_A_FLAGS", REPLACE_ALLOWED_IPS]]
    if peer.endpoint:
        attrs.append(["WGPEER_A_ENDPOINT", {"addr": peer.endpoint.host, "port": peer.endpoint.port}])
    attrs.append(["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive])
    allowed = [
        {
            "attrs": [
                ["WGALLOWEDIP_A_FAMILY", socket.AF_INET if net.version == 4 else socket.AF_INET6],
                ["WGALLOWEDIP_A_IPADDR", net.network_address.packed],
                ["WGALLOWEDIP_A_CIDR_MASK", net.prefixlen],
            ]
        }
        for net in sorted(peer.allowed_ips, key=str)
    ]
    attrs.append(["WGPEER_A_ALLOWEDIPS", allowed])
    return {"attrs": attrs}


def _keepalive(key: str, seconds: int) -> dict[str, Any]:
    return {
        "attrs": [
            ["WGPEER_A_PUBLIC_KEY", key],
            ["WGPEER_A_FLAGS", UPDATE_ONLY],
            ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", seconds],
        ]
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("value", b"")
    return value.decode() if isinstance(value, bytes) else str(value)


class KernelBackend:
    """WireGuard of the running kernel."""

    name = "kernel"

    def create(self, ifname: str) -> None:
        """Make the device."""
        from pyroute2 import IPRoute

        with IPRoute() as ipr:
            ipr.link("add", ifname=ifname, kind="wireguard")

    def remove(self, ifname: str) -> None:
        """Delete the device."""
        from pyroute2 import IPRoute

        with IPRoute() as ipr:
            for index in ipr.link_lookup(ifname=ifname):
                ipr.link("del", index=index)

    def configure(self, ifname: str, private_key: bytes, listen_port: int, fwmark: int) -> None:
        """Key, port and mark."""
        self._send(
            ifname,
            [
                ["WGDEVICE_A_PRIVATE_KEY", base64.b64encode(private_key).decode()],
                ["WGDEVICE_A_LISTEN_PORT", listen_port],
                ["WGDEVICE_A_FWMARK", fwmark],
            ],
        )

    def apply(self, ifname: str, changes: PeerChanges) -> None:
        """Send a delta; removals first, so that an address that moves is free."""
        peers = [
            {"attrs": [["WGPEER_A_PUBLIC_KEY", key], ["WGPEER_A_FLAGS", REMOVE_ME]]} for key in changes.remove
        ]
        peers += [_attrs(peer) for peer in changes.set]
        for start in range(0, len(peers), _BATCH):
            self._send(ifname, [["WGDEVICE_A_PEERS", peers[start : start + _BATCH]]])

    def provoke(self, ifname: str, peers: Iterable[PeerState]) -> None:
        """Provoke handshakes: switching keepalive on makes WireGuard send at once."""
        known = list(peers)
        for values in (
            [0] * len(known),
            [peer.keepalive or 25 for peer in known],
            [p.keepalive for p in known],
        ):
            entries = [_keepalive(peer.key, value) for peer, value in zip(known, values)]
            for start in range(0, len(entries), _BATCH):
                self._send(ifname, [["WGDEVICE_A_PEERS", entries[start : start + _BATCH]]])

    def _send(self, ifname: str, attrs: list[list[Any]]) -> None:
        from pyroute2 import WireGuard
        from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
        from pyroute2.netlink.generic.wireguard import WG_CMD_SET_DEVICE, wgmsg

        with WireGuard() as link:
            message = wgmsg()
            message["cmd"] = WG_CMD_SET_DEVICE
            message["version"] = 1
            message["attrs"] = [["WGDEVICE_A_IFNAME", ifname], *attrs]
            tuple(link.nlm_request(message, msg_type=link.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK))

    def dump(self, ifname: str) -> DeviceState:
        """Read the device; a large one comes in several messages."""
        from pyroute2 import WireGuard

        peers: dict[str, PeerState] = {}
        public, port, mark = "", 0, 0
        with WireGuard() as link:
            for message in link.info(ifname):
                public = _text(message.get_attr("WGDEVICE_A_PUBLIC_KEY") or public)
                port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or port
                mark = message.get_attr("WGDEVICE_A_FWMARK") or mark
                for item in message.get_attr("WGDEVICE_A_PEERS") or ():
                    state = _peer_state(item, peers)
                    peers[state.key] = state
        return DeviceState(public, port, mark, peers)


def _peer_state(item: Any, earlier: dict[str, PeerState]) -> PeerState:
    key = _text(item.get_attr("WGPEER_A_PUBLIC_KEY"))
    allowed = {ipaddress.ip_network(ip["addr"]) for ip in item.get_attr("WGPEER_A_ALLOWEDIPS") or ()}
    if key in earlier:  # the kernel goes on with this peer's allowed IPs in the next message
        allowed |= earlier[key].allowed_ips
    found = item.get_attr("WGPEER_A_ENDPOINT")
    handshake = item.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {}
    return PeerState(
        key,
        Endpoint(found["addr"], found["port"]) if found else None,
        frozenset(allowed),
        item.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        float(handshake["tv_sec"]) + handshake["tv_nsec"] / 1e9 if handshake else 0.0,
        item.get_attr("WGPEER_A_RX_BYTES") or 0,
        item.get_attr("WGPEER_A_TX_BYTES") or 0,
    )
