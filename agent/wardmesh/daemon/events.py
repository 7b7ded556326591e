# SPDX-License-Identifier: Apache-2.0
"""Netlink events: something changed under us, look soon instead of at the next period."""

from __future__ import annotations

import logging
import threading
from typing import Any

from wardmesh.wireguard.routing import TABLE

# rtnetlink multicast groups: link, tc, IPv4/IPv6 address, route and rule (uapi/linux/rtnetlink.h)
GROUPS = 0x1 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
LOG = logging.getLogger("wardmesh")


class Events:
    """Sets `changed` on every event, `paths` on those that may move the way to a peer."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        self.paths = threading.Event()
        threading.Thread(target=self._listen, daemon=True, name="netlink").start()

    def _listen(self) -> None:
        from pyroute2 import IPRoute

        while True:
            try:
                with IPRoute() as ipr:
                    ipr.bind(groups=GROUPS)
                    while True:
                        for message in ipr.get():
                            self._take(message)
            except Exception as error:  # noqa: BLE001 - an overrun or an unreadable message: look at everything
                LOG.debug("netlink events lost (%s); looking at everything", error)
                self.paths.set()
                self.changed.set()

    def _take(self, message: Any) -> None:
        event = str(message.get("event", ""))
        if (
            "ADDR" in event
            or "LINK" in event
            or ("ROUTE" in event and message.get_attr("RTA_TABLE") != TABLE)
        ):
            self.paths.set()
        self.changed.set()
