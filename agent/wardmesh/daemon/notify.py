# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3), by hand: what systemd is told of the daemon."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Takes the address out of the environment: a child (systemctl) must not speak in the daemon's name."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def send(self, text: str) -> None:
        """Send READY=1, STOPPING=1 or STATUS=…; nothing happens where systemd does not ask."""
        if self._address:
            _send(self._address, text)


def _send(address: str, text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        try:
            link.connect("\0" + address[1:] if address.startswith("@") else address)
            link.send(text.encode())
        except OSError:
            return  # systemd restarts itself: it reads the state again from the process
