# SPDX-License-Identifier: Apache-2.0
"""The page's sockets: bounded in clients and in time, plain on loopback, by TLS elsewhere.

A connection carries one request and has a fixed time in all: who sends a byte now and then, or does not
read, costs one of the threads for that long and nothing more.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.credentials import Stamps, stamps_of
from wardmesh.observe.listen import Binding, Gate
from wardmesh.observe.settings import Tls
from wardmesh.observe.ui.assets import Asset
from wardmesh.observe.ui.model import FlowModel
from wardmesh.observe.ui.pages import Pages

LOG = logging.getLogger("wardmesh")
MOST_CLIENTS = 64
LIFETIME = 30.0  # seconds of a connection, whatever it does
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Listener(ThreadingMixIn, TCPServer):
    """One address. gate: who may ask, as it is now."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        binding: Binding,
        tls: Tls | None,
        model: FlowModel,
        assets: dict[str, Asset],
        gate: Callable[[], Gate],
        lifetime: float = LIFETIME,
    ) -> None:
        self.address_family = socket.AF_INET6 if binding.address.version == 6 else socket.AF_INET
        self.model, self.assets = model, assets
        self.hosts = None if binding.tls else LOOPBACK_NAMES | {_host(binding)}
        self._gate = gate
        self._lifetime = lifetime
        self._room = threading.BoundedSemaphore(MOST_CLIENTS)
        self._open: dict[socket.socket, tuple[socket.socket, float]] = {}  # to what is cut at which time
        self._lock = threading.Lock()
        self._tls = tls if binding.tls else None
        self._stamps: Stamps = ()
        self._context = self._secure()
        super().__init__((str(binding.address), binding.port), Pages, bind_and_activate=False)
        try:
            self.server_bind()
            self.server_activate()
        except OSError as error:
            self.server_close()
            raise WardmeshError(
                "cannot serve the page",
                where=binding.target(),
                why=error.strerror or str(error),
                remedy="ss -ltnp shows who listens; set hubble.ui.listenAddress to something that is free",
            ) from error

    @property
    def port(self) -> int:
        """The one that it got."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve, in a thread of its own."""
        threading.Thread(target=self.serve_forever, daemon=True, name="ui").start()

    # --- connections ---

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Only who may ask, and only so many at once."""
        address = str(client_address[0]).split("%", maxsplit=1)[0]
        peer = f"ipv6:[{address}]:1" if ":" in address else f"ipv4:{address}:1"
        return self._gate().admits(peer) and self._room.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Into a thread; one that cannot be made gives its place back."""
        with self._lock:
            self._open[request] = (request, time.monotonic() + self._lifetime)
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One client's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def _leave(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands first where it is TLS: in the client's thread, for it may be slow."""
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(Pages.timeout)
        with self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            self._follow_secured(request, secured)
            secured.do_handshake()
            gate = self._gate()
            if gate.trusts(secured.getpeercert(binary_form=True)) and gate.knows(_names_in(secured)):
                super().finish_request(secured, client_address)
            with contextlib.suppress(OSError):
                secured.unwrap()

    def _follow_secured(self, request: Any, secured: ssl.SSLSocket) -> None:
        """wrap_socket took the descriptor over: it is the one to cut."""
        with self._lock:
            if request in self._open:
                self._open[request] = (secured, self._open[request][1])

    def service_actions(self) -> None:
        """Twice a second: cut what is too old, take in replaced certificates."""
        now = time.monotonic()
        with self._lock:
            for connection, end in self._open.values():
                if end < now:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
        if self._tls is not None and self._stamps != stamps_of(self._tls):
            with contextlib.suppress(WardmeshError):  # half written: the next look sees it whole
                self._context = self._secure()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that breaks off is none of our business; anything else is a fault of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            LOG.exception("ui: an answer failed")

    # --- TLS ---

    def _secure(self) -> ssl.SSLContext | None:
        tls = self._tls
        if tls is None:
            return None
        stamps = stamps_of(self._tls)
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(tls.cert, tls.key)
            if tls.client_ca is not None:
                context.load_verify_locations(tls.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise WardmeshError(
                "cannot use the files of TLS",
                where=f"hubble.tls: {tls.cert}, {tls.key}, {tls.client_ca or 'no client CA'}",
                why=str(error),
                remedy="correct hubble.tls in the configuration",
            ) from error
        self._stamps = stamps
        return context


def _names_in(secured: ssl.SSLSocket) -> list[bytes]:
    """The names in the client's certificate; none where it showed none."""
    shown = (secured.getpeercert() or {}).get("subjectAltName", ())
    return [str(entry[1]).encode() for entry in shown if entry[0] == "DNS"]


def _host(binding: Binding) -> str:
    return f"[{binding.address}]" if binding.address.version == 6 else str(binding.address)
