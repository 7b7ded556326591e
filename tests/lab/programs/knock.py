# SPDX-License-Identifier: Apache-2.0
"""On a host: datagrams to others at a steady pace, and what came back of them.

`knock.py serve PORT …` answers each datagram. `knock.py talk FILE PAUSE ADDRESS/PORT …` sends one to each
target every PAUSE seconds and writes a JSON object into FILE five times a second: for each target how many
were sent, how many were answered, and the longest silence in seconds.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time


def serve(ports: list[int]) -> None:
    """For ever."""
    sockets = []
    for port in ports:
        sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sockets[-1].bind(("", port))
    while True:
        for link in select.select(sockets, [], [])[0]:
            try:
                data, peer = link.recvfrom(100)
                link.sendto(data, peer)
            except OSError:  # a policy, or an error that came back for an earlier answer
                continue


class Target:
    """One port of one host."""

    def __init__(self, text: str) -> None:
        address, _slash, port = text.partition("/")
        self.place = (address, int(port))
        self.link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.link.setblocking(False)
        self.last = time.monotonic()
        self.told = {"sent": 0, "answered": 0, "longest": 0.0}

    def knock(self) -> None:
        """Send one; count what came since the one before."""
        now = time.monotonic()
        while True:
            try:
                self.link.recv(100)
            except BlockingIOError:
                break
            except OSError:
                continue
            self.told["answered"] += 1
            self.last = now
        self.told["longest"] = max(self.told["longest"], round(now - self.last, 3))
        try:
            self.link.sendto(b"x", self.place)
            self.told["sent"] += 1
        except OSError:
            return


def talk(path: str, pause: float, texts: list[str]) -> None:
    """For ever, whatever becomes of the other sides."""
    targets = {text: Target(text) for text in texts}
    written = time.monotonic()
    while True:
        for target in targets.values():
            target.knock()
        if time.monotonic() - written > 0.2:
            write(path, {text: target.told for text, target in targets.items()})
            written = time.monotonic()
        time.sleep(pause)


def write(path: str, told: dict[str, dict[str, float]]) -> None:
    """Whole or not at all."""
    with open(f"{path}.new", "w", encoding="ascii") as stream:
        json.dump(told, stream)
    os.replace(f"{path}.new", path)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve([int(word) for word in sys.argv[2:]])
    else:
        talk(sys.argv[2], float(sys.argv[3]), sys.argv[4:])
