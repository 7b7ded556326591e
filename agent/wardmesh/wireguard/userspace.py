# SPDX-License-Identifier: Apache-2.0
"""wireguard-go, by its UAPI socket (wireguard.com/xplatform): the fallback where the kernel has none.

The process is a systemd unit of its own, so that the tunnel outlives the agent.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from wardmesh.host.process import run
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Endpoint
from wardmesh.wireguard.backend import DeviceState, PeerChanges, PeerConfig, PeerState

SOCKETS = Path("/var/run/wireguard")


def available() -> bool:
    """Is wireguard-go installed, and is there a tun device?"""
    return bool(shutil.which("wireguard-go")) and os.path.exists("/dev/net/tun")


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


def _lines(peer: PeerConfig) -> list[str]:
    lines = [f"public_key={_hex(peer.key)}"]
    if peer.endpoint:
        lines.append(f"endpoint={peer.endpoint}")
    lines += [f"persistent_keepalive_interval={peer.keepalive}", "replace_allowed_ips=true"]
    return lines + [f"allowed_ip={net}" for net in sorted(map(str, peer.allowed_ips))]


class Starter(Protocol):
    """Starts and stops the process of a device."""

    def start(self, ifname: str) -> None:
        """Start it anew; what is left over of it is stopped first."""

    def stop(self, ifname: str) -> None:
        """Stop it; nothing happens where none runs."""


class SystemdStarter:
    """The unit wardmesh-wireguard@<ifname>.service."""

    def start(self, ifname: str) -> None:
        """Restart the unit, also one that systemd has given up."""
        run(["systemctl", "reset-failed", f"wardmesh-wireguard@{ifname}.service"], check=False)
        run(["systemctl", "restart", f"wardmesh-wireguard@{ifname}.service"])

    def stop(self, ifname: str) -> None:
        """Stop the unit."""
        run(["systemctl", "stop", f"wardmesh-wireguard@{ifname}.service"], check=False)


class UserspaceBackend:
    """wireguard-go behind its socket."""

    name = "userspace"

    def __init__(self, starter: Starter | None = None) -> None:
        self._starter: Starter = starter or SystemdStarter()

    def create(self, ifname: str) -> None:
        """Start the process and wait until its socket answers (10 s at most)."""
        self._starter.start(ifname)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                self._ask(ifname, "get=1\n\n")
                return
            except WardmeshError:
                time.sleep(0.05)
        raise WardmeshError(
            "wireguard-go does not answer",
            where=str(SOCKETS / f"{ifname}.sock"),
            remedy=f"journalctl -u wardmesh-wireguard@{ifname}",
        )

    def remove(self, ifname: str) -> None:
        """Stop the unit; the device goes with the process."""
        self._starter.stop(ifname)
        (SOCKETS / f"{ifname}.sock").unlink(missing_ok=True)

    def configure(self, ifname: str, private_key: bytes, listen_port: int, fwmark: int) -> None:
        """Key, port and mark."""
        self._set(
            ifname, [f"private_key={private_key.hex()}", f"listen_port={listen_port}", f"fwmark={fwmark}"]
        )

    def apply(self, ifname: str, changes: PeerChanges) -> None:
        """One message for the whole delta; removals first, so that an address that moves is free."""
        lines = [line for key in changes.remove for line in (f"public_key={_hex(key)}", "remove=true")]
        lines += [line for peer in changes.set for line in _lines(peer)]
        self._set(ifname, lines)

    def provoke(self, ifname: str, peers: Iterable[PeerState]) -> None:
        """Provoke handshakes: switching keepalive on makes WireGuard send at once."""
        known = list(peers)
        for values in (
            [0] * len(known),
            [peer.keepalive or 25 for peer in known],
            [p.keepalive for p in known],
        ):
            lines = [
                line
                for peer, value in zip(known, values)
                for line in (
                    f"public_key={_hex(peer.key)}",
                    "update_only=true",
                    f"persistent_keepalive_interval={value}",
                )
            ]
            self._set(ifname, lines)

    def _ask(self, ifname: str, text: str) -> str:
        path = SOCKETS / f"{ifname}.sock"
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(20)
                link.connect(str(path))
                link.sendall(text.encode())
                answer = b""
                while not answer.endswith(b"\n\n"):
                    part = link.recv(1 << 16)
                    if not part:
                        break
                    answer += part
        except OSError as error:
            raise WardmeshError(
                "wireguard-go does not answer",
                where=str(path),
                why=str(error),
                remedy=f"journalctl -u wardmesh-wireguard@{ifname}",
            ) from error
        return answer.decode()

    def _set(self, ifname: str, lines: list[str]) -> None:
        answer = self._ask(ifname, "\n".join(["set=1", *lines]) + "\n\n")
        if "errno=0" not in answer:
            raise WardmeshError("wireguard-go refused a change", where=ifname, why=answer.strip())

    def dump(self, ifname: str) -> DeviceState:
        """Read the device from the key=value lines of get=1."""
        private, port, mark = b"", 0, 0
        blocks: list[dict[str, list[str]]] = []
        for line in self._ask(ifname, "get=1\n\n").splitlines():
            name, _sep, value = line.partition("=")
            if name == "public_key":
                blocks.append({"public_key": [value]})
            elif blocks:
                blocks[-1].setdefault(name, []).append(value)
            elif name == "private_key":
                private = bytes.fromhex(value)
            elif name == "listen_port":
                port = int(value)
            elif name == "fwmark":
                mark = int(value)
        peers = {state.key: state for state in map(_peer_state, blocks)}
        from wardmesh.wireguard.keys import public_of

        return DeviceState(public_of(private) if private else "", port, mark, peers)


def _peer_state(block: dict[str, list[str]]) -> PeerState:
    def one(name: str) -> str:
        return block.get(name, ["0"])[0]

    endpoint = None
    if "endpoint" in block:
        host, _sep, port = one("endpoint").rpartition(":")
        endpoint = Endpoint(host.strip("[]"), int(port))
    return PeerState(
        base64.b64encode(bytes.fromhex(one("public_key"))).decode(),
        endpoint,
        frozenset(ipaddress.ip_network(text) for text in block.get("allowed_ip", ())),
        int(one("persistent_keepalive_interval")),
        int(one("last_handshake_time_sec")) + int(one("last_handshake_time_nsec")) / 1e9,
        int(one("rx_bytes")),
        int(one("tx_bytes")),
    )
