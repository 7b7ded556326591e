# SPDX-License-Identifier: Apache-2.0
"""Metrics by prometheus_client, and the small HTTP server that Prometheus asks.

Who may ask: this host, and members of the fleet by the address from which they come. A member's address
is proved where the peer is sealed, for then its packets come by the tunnel or not at all. Everybody
else's connection is closed before a byte of it is read.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address, Network
from wardmesh.observe.metrics_model import COUNTER, HISTOGRAM, METRICS, Metric
from wardmesh.observe.metrics_samples import Sample

if TYPE_CHECKING:
    from types import ModuleType

Read = Callable[[], "list[Sample]"]
Admits = Callable[[str], bool]  # an address, as the socket tells it
Secure = Callable[[socket.socket], socket.socket]  # a connection after TLS's handshake, or OSError
FRESH = 1.0  # seconds for which one reading answers everybody: more scrapers cost no more
CONNECTIONS_MAX = 16
PATIENCE = 10.0  # seconds that a client may take
_FREEBIND = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}  # linux/in*.h


def library() -> tuple[ModuleType, ModuleType]:
    """prometheus_client and its core; WardmeshError naming the package where it is missing."""
    try:
        import prometheus_client
        from prometheus_client import core
    except ImportError as error:
        raise WardmeshError(
            "no library for metrics on this host",
            why=str(error),
            remedy="install the package python3-prometheus-client (RHEL: python3-prometheus_client of EPEL)",
        ) from error
    return prometheus_client, core


class Collector:
    """Gives prometheus_client one family after the other, in the table's order."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._core: Any = library()[1]

    def describe(self) -> list[Any]:
        """Nothing: the registry would read everything for it."""
        return []

    def collect(self) -> Iterator[Any]:
        """The families that have samples."""
        found: dict[str, list[Sample]] = {}
        for sample in self._read():
            found.setdefault(sample.metric, []).append(sample)
        for metric in METRICS:
            if metric.name in found:
                yield self._family(metric, found[metric.name])

    def _family(self, metric: Metric, rows: Iterable[Sample]) -> Any:
        if metric.kind == HISTOGRAM:
            family = self._core.HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for row in rows:
                if row.delays is not None:
                    buckets = [(str(bound), count) for bound, count in row.delays.buckets]
                    buckets.append(("+Inf", row.delays.count))
                    family.add_metric(row.labels, buckets, row.delays.sum)
            return family
        kind = self._core.CounterMetricFamily if metric.kind == COUNTER else self._core.GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for row in rows:
            family.add_metric(row.labels, row.value)
        return family


class Exposition:
    """The text of a scrape; made at most once in FRESH seconds."""

    def __init__(self, read: Read, clock: Callable[[], float] = time.monotonic) -> None:
        client, core = library()
        registry = core.CollectorRegistry(auto_describe=False)
        registry.register(Collector(read))
        self.content_type = str(client.CONTENT_TYPE_LATEST)
        self._make: Callable[[], bytes] = lambda: bytes(client.generate_latest(registry))
        self._clock = clock
        self._lock = threading.Lock()
        self._text = b""
        self._until = float("-inf")

    def text(self) -> bytes:
        """The exposition format."""
        with self._lock:
            if self._clock() >= self._until:
                self._text = self._make()
                self._until = self._clock() + FRESH
            return self._text


class _Request(BaseHTTPRequestHandler):
    server: _Listener
    timeout = PATIENCE

    def do_GET(self) -> None:
        """GET /metrics."""
        if self.path.split("?")[0] != "/metrics":
            self._answer(404, "text/plain", b"metrics are at /metrics\n")
            return
        exposition = self.server.exposition
        try:
            self._answer(200, exposition.content_type, exposition.text())
        except OSError:  # the client went away
            self.close_connection = True
        except Exception as error:  # noqa: BLE001  the edge: Prometheus shows it as the target's error
            self._answer(500, "text/plain", f"{type(error).__name__}: {error}\n".encode())

    def _answer(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Scrapes are not logged."""


class _Listener(ThreadingMixIn, TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32
    serving = False

    secure: Secure | None = None

    def __init__(self, address: str, port: int, exposition: Exposition, admits: Admits, room: Any) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address_family = family
        self.exposition = exposition
        self._admits = admits
        self._room = room
        super().__init__((address, port), _Request, bind_and_activate=False)
        try:
            if family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.setsockopt(*_FREEBIND[family], 1)  # the address may come later than we do
            self.server_bind()
            self.server_activate()
        except OSError as error:
            self.server_close()
            raise WardmeshError(
                "cannot serve metrics",
                where=f"{address} port {port}",
                why=error.strerror or str(error),
                remedy="set prometheus.port or prometheus.listenAddress to something that is free",
            ) from error

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Only who may ask, and only so many at once."""
        return self._admits(str(client_address[0])) and bool(self._room.acquire(blocking=False))

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One client's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the client's thread, so that nobody waits for another one's handshake."""
        if self.secure is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(PATIENCE)
        with self.secure(request) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is none of our business."""


class MetricsServer:
    """Serves /metrics on some addresses until it is closed."""

    def __init__(
        self, addresses: Iterable[str], port: int, read: Read, admits: Admits, secure: Secure | None = None
    ) -> None:
        """secure: what makes TLS of a connection; loopback stays plain."""
        exposition, room = Exposition(read), threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._listeners: list[_Listener] = []
        try:
            for address in addresses:
                made = _Listener(address, port, exposition, admits, room)
                made.secure = None if ipaddress.ip_address(address).is_loopback else secure
                self._listeners.append(made)
        except WardmeshError:
            self.close()
            raise
        for listener in self._listeners:
            threading.Thread(target=listener.serve_forever, daemon=True, name="metrics").start()
            listener.serving = True

    @property
    def ports(self) -> list[int]:
        """The port of each address, in order."""
        return [int(listener.server_address[1]) for listener in self._listeners]

    def close(self) -> None:
        """Stop serving."""
        for listener in self._listeners:
            if listener.serving:
                listener.shutdown()
            listener.server_close()


@dataclass(frozen=True)
class Admitted:
    """Addresses and networks whose connections are answered, beside loopback."""

    addresses: frozenset[Address] = frozenset()
    networks: tuple[Network, ...] = ()


def admitted(networks: Iterable[Network]) -> Admitted:
    """Host networks become addresses, so that ten thousand members cost one look-up."""
    given = tuple(networks)
    hosts = frozenset(net.network_address for net in given if net.prefixlen == net.max_prefixlen)
    return Admitted(hosts, tuple(net for net in given if net.prefixlen != net.max_prefixlen))


def admission(known: Callable[[], Admitted]) -> Admits:
    """Who may ask: loopback, and what `known` says at that time."""

    def admits(text: str) -> bool:
        try:
            address = ipaddress.ip_address(text.split("%", maxsplit=1)[0])
        except ValueError:
            return False
        if address.is_loopback:
            return True
        now = known()
        return address in now.addresses or any(
            address.version == network.version and address in network for network in now.networks
        )

    return admits
