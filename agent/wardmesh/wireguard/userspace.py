# SPDX-License-Identifier: Apache-2.0
"""wireguard-go by its UAPI socket: the fallback where the kernel has no WireGuard.

The process is a systemd unit of its own, so that the tunnel outlives the agent.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from wardmesh.host.netlink import Netlink
from wardmesh.host.process import run
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard import links, uapi
from wardmesh.wireguard.backend import DeviceState, PeerChanges, PeerState
from wardmesh.wireguard.keys import public_of

PROGRAM = "wireguard-go"
SOCKETS = Path("/var/run/wireguard")  # fixed in wireguard-go
_TUN = Path("/dev/net/tun")
_START_SECONDS = 15.0
_ANSWER_SECONDS = 120.0  # it takes 0.1-0.4 ms for a peer, and a fleet has 10,000
_POLL_SECONDS = 0.02


class Starter(Protocol):
    """Starts and stops the process of a device."""

    def start(self, ifname: str) -> None:
        """Start anew: what was left over of that device is stopped first."""

    def stop(self, ifname: str) -> None:
        """Stop it; nothing happens where none runs."""


class SystemdStarter:
    """The unit wardmesh-wireguard@<ifname>.service."""

    def start(self, ifname: str) -> None:
        """Restart the unit, also one that systemd has given up."""
        run(["systemctl", "reset-failed", self.unit(ifname)], check=False)
        run(["systemctl", "restart", self.unit(ifname)])

    def stop(self, ifname: str) -> None:
        """Stop the unit."""
        run(["systemctl", "stop", self.unit(ifname)], check=False)

    @staticmethod
    def unit(ifname: str) -> str:
        """The unit's name."""
        return f"wardmesh-wireguard@{ifname}.service"


class UserspaceBackend:
    """wireguard-go behind its socket."""

    name = "userspace"

    def __init__(self, starter: Starter | None = None) -> None:
        self._starter: Starter = starter or SystemdStarter()
        self._cache: dict[bytes, PeerState] = {}

    @staticmethod
    def unavailable() -> str:
        """Why there is no userspace WireGuard here, "" when there is."""
        if not shutil.which(PROGRAM):
            return f"{PROGRAM} is not installed"
        return "" if _TUN.exists() else f"{PROGRAM} needs {_TUN}, which is missing"

    def create(self, ifname: str) -> None:
        """Start the process and wait until its socket answers."""
        with Netlink() as link:
            left_over = links.find_link(link, ifname)
            if left_over is not None:
                links.delete_link(link, left_over.ifindex)
        self._starter.start(ifname)
        deadline = time.monotonic() + _START_SECONDS
        while not self.exists(ifname):
            if time.monotonic() > deadline:
                raise self._silent(ifname, f"not ready after {_START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def remove(self, ifname: str) -> None:
        """Stop the process; its device and socket go with it."""
        self._starter.stop(ifname)
        with Netlink() as link:
            left_over = links.find_link(link, ifname)
            if left_over is not None:
                links.delete_link(link, left_over.ifindex)
        (SOCKETS / f"{ifname}.sock").unlink(missing_ok=True)
        with suppress(OSError):  # not there, or another device's socket is in it
            SOCKETS.rmdir()

    def exists(self, ifname: str) -> bool:
        """Is the device there, and does a process answer for it?"""
        with Netlink() as link:
            if links.find_link(link, ifname) is None:
                return False
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(SOCKETS / f"{ifname}.sock"))
        except OSError:
            return False
        return True

    def configure(self, ifname: str, private_key: bytes, listen_port: int, fwmark: int) -> None:
        """Key, port and mark."""
        self._set(
            ifname, [f"private_key={private_key.hex()}", f"fwmark={fwmark}", f"listen_port={listen_port}"]
        )

    def apply(self, ifname: str, changes: PeerChanges) -> None:
        """Send a delta in one operation."""
        self._set(ifname, uapi.change_lines(changes))

    def provoke(self, ifname: str, peers: Iterable[PeerState]) -> None:
        """Switch keepalive on, which sends at once, and back to what it was."""
        self._set(ifname, uapi.provoke_lines(peers))

    def dump(self, ifname: str) -> DeviceState:
        """Read the device; what has not changed since the last time is not parsed again."""
        answer = self._ask(ifname, b"get=1\n\n")
        settings, peers, self._cache = uapi.parse_device(answer, self._cache)
        if settings.get("errno") != "0":
            raise self._silent(ifname, f"error {settings.get('errno', 'unknown')} on reading")
        with Netlink() as link:
            found = links.find_link(link, ifname)
        private = bytes.fromhex(settings.get("private_key", ""))
        return DeviceState(
            found.ifindex if found else 0,
            public_of(private) if private else "",
            int(settings.get("listen_port", 0)),
            int(settings.get("fwmark", 0)),
            peers,
        )

    def _set(self, ifname: str, lines: list[str]) -> None:
        if not lines:
            return
        answer = self._ask(ifname, "\n".join(["set=1", *lines, "", ""]).encode())
        code = answer.strip().rpartition(b"errno=")[2].decode()
        if code != "0":
            why = os.strerror(-int(code)) if code.lstrip("-").isdigit() else "no answer"
            raise WardmeshError(f"{PROGRAM} refused a change", where=ifname, why=why)

    def _ask(self, ifname: str, question: bytes) -> bytes:
        answer = bytearray()
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(_ANSWER_SECONDS)
                link.connect(str(SOCKETS / f"{ifname}.sock"))
                link.sendall(question)
                while not answer.endswith(b"\n\n"):
                    part = link.recv(1 << 18)
                    if not part:
                        break
                    answer += part
        except OSError as error:
            raise self._silent(ifname, str(error)) from error
        return bytes(answer)

    def _silent(self, ifname: str, why: str) -> WardmeshError:
        return WardmeshError(
            f"{PROGRAM} does not answer",
            where=str(SOCKETS / f"{ifname}.sock"),
            why=why,
            remedy=f"see journalctl -u {SystemdStarter.unit(ifname)}",
        )
