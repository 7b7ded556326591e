# SPDX-License-Identifier: Apache-2.0
"""In the lab's own network: what arrives at one device is held for a while and then put onto the bridge.

`relay.py DEVICE BRIDGE`. Each frame is held for another time, so that later ones overtake it: what netem's
`reorder` does, for kernels without netem.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import sys
import time

HELD = (0.005, 0.05)  # seconds; WireGuard's window of 8192 packets and TCP's of three duplicates lie within
MOST = 1000  # frames at a time
ETH_P_ALL = 3


def main(device: str, bridge: str) -> None:
    """For ever."""
    source, target = (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind)) for kind in (ETH_P_ALL, 0)
    )
    source.bind((device, ETH_P_ALL))
    target.bind((bridge, 0))
    held: list[tuple[float, int, bytes]] = []
    count = 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        if select.select([source], [], [], wait)[0]:
            frame, sender = source.recvfrom(65536)
            if sender[2] != socket.PACKET_OUTGOING and len(held) < MOST:
                count += 1
                heapq.heappush(held, (time.monotonic() + random.uniform(*HELD), count, frame))
        while held and held[0][0] <= time.monotonic():
            target.send(heapq.heappop(held)[2])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
