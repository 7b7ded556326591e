# SPDX-License-Identifier: Apache-2.0
"""On a host: hold one TCP connection, say a byte every 20 ms over it, and count what comes back.

`hold.py serve PORT` answers bytes with bytes. `hold.py talk ADDRESS PORT FILE` writes a JSON object into
FILE twice a second: answers so far, the longest silence in seconds, and why it ended, if it did.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time


def answer(link: socket.socket) -> None:
    """Every byte back, until the other side ends."""
    while data := link.recv(4096):
        link.sendall(data)


def serve(port: int) -> None:
    """For ever; a connection a thread."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def talk(address: str, port: int, path: str) -> None:
    """Until the connection breaks; the file then says so."""
    told = {"answers": 0, "longest": 0.0, "ended": ""}
    try:
        link = socket.create_connection((address, port), 10)
        last = written = time.monotonic()
        while True:
            link.sendall(b"x")
            told["answers"] += len(link.recv(1))
            now = time.monotonic()
            told["longest"], last = max(told["longest"], round(now - last, 3)), now
            if now - written > 0.5:
                write(path, told)
                written = now
            time.sleep(0.02)
    except OSError as error:
        write(path, {**told, "ended": str(error)})


def write(path: str, told: dict[str, object]) -> None:
    """Whole or not at all."""
    with open(f"{path}.new", "w", encoding="ascii") as stream:
        json.dump(told, stream)
    os.replace(f"{path}.new", path)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        talk(sys.argv[2], int(sys.argv[3]), sys.argv[4])
