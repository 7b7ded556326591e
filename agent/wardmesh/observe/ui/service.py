# SPDX-License-Identifier: Apache-2.0
"""The life of `wardmesh ui`: a feed from the relay, a model, and listeners that show it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.observe.client import Access
from wardmesh.observe.held_map import HeldMap
from wardmesh.observe.listen import Binding, plan
from wardmesh.observe.needs import need
from wardmesh.observe.own_relay import relay_access
from wardmesh.observe.service import gate_of, settings_of
from wardmesh.observe.settings import UI_PORT, HostPort, Tls, host_port
from wardmesh.observe.ui.assets import load_assets
from wardmesh.observe.ui.feed import Feed
from wardmesh.observe.ui.listener import Listener
from wardmesh.observe.ui.model import FlowModel

LOG = logging.getLogger("wardmesh")
_LOOK = 2.0  # seconds between two looks at the fleet map
_EVERYWHERE = ("", "::", "0.0.0.0")  # noqa: S104  what an operator may have asked for


@dataclass(frozen=True)
class Asked:
    """From the command line; "" and None where it says nothing. access: instead of the relay here."""

    listen: str = ""
    access: Access | None = None


def binding_of(listen: HostPort, tls: Tls | None) -> Binding:
    """Where the page is served: plain on loopback, elsewhere only by TLS."""
    if tls is None and listen.host in _EVERYWHERE:
        raise WardmeshError(
            "the page is not served in plain text to everybody",
            where=f"hubble.ui.listenAddress: {listen.host}:{listen.port}",
            remedy=f"listen on 127.0.0.1:{listen.port}, or set hubble.tls.certFile and hubble.tls.keyFile",
        )
    return plan(listen, tls, (), sealed=False).bindings[0]


class Page:
    """Everything that runs. gate: members come and go with the fleet map."""

    def __init__(self, paths: Paths, asked: Asked, own_name: Callable[[FleetMap], str]) -> None:
        need("grpc")
        settings = settings_of(paths)
        self._held = HeldMap(paths, own_name)
        self._held.changed()
        self._tls, self._revoked = settings.tls, settings.revoked
        self._gate = gate_of(self._held.fleet, self._tls, self._revoked)
        fleet = self._held.fleet
        access = asked.access or relay_access(settings, self._held.own, fleet.cluster.name if fleet else "")
        where = host_port(asked.listen, "--listen", UI_PORT) if asked.listen else settings.ui
        self.binding = binding_of(where, settings.tls)
        self.model = FlowModel(access.target)
        self._listener = Listener(self.binding, settings.tls, self.model, load_assets(), lambda: self._gate)
        self._feed = Feed(access, self.model)
        self._stop = threading.Event()

    @property
    def url(self) -> str:
        """Where to look."""
        scheme = "https" if self.binding.tls else "http"
        return f"{scheme}://{replace(self.binding, port=self._listener.port).target()}/"

    def start(self) -> None:
        """Begin to serve and to read."""
        self._listener.start()
        self._feed.start()

    def run(self) -> None:
        """Until stop is called."""
        while not self._stop.wait(_LOOK):
            if self._held.changed():
                self._gate = gate_of(self._held.fleet, self._tls, self._revoked)

    def stop(self) -> None:
        """From a signal handler: run returns soon."""
        self._stop.set()

    def close(self) -> None:
        """End both."""
        self._listener.shutdown()
        self._listener.server_close()
        self._feed.close()


def run_ui(paths: Paths, asked: Asked, own_name: Callable[[FleetMap], str], ready: Callable[[], None]) -> int:
    """Serve until SIGTERM."""
    page = Page(paths, asked, own_name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_args: page.stop())
    page.start()
    LOG.info("ui: %s shows the flows of %s", page.url, page.model.server)
    ready()
    try:
        page.run()
    finally:
        page.close()
    return 0
