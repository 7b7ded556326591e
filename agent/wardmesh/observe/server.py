# SPDX-License-Identifier: Apache-2.0
"""The Hubble API of one host: Observer, Peer, and gRPC's health and reflection services."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from wardmesh import __version__
from wardmesh.observe.getflows import Encoder, Query, select
from wardmesh.observe.listen import Gate
from wardmesh.observe.names import Names
from wardmesh.observe.proto import message
from wardmesh.observe.reflection import reflect
from wardmesh.observe.ring import Ring
from wardmesh.observe.roster import Roster
from wardmesh.observe.rpc import MAX_STREAMS, Refused, Registry, Slots

OBSERVER, PEER, HEALTH = "observer.Observer", "peer.Peer", "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
SERVING = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus
SERVICE_UNKNOWN = 3
NODE_CONNECTED = 1  # relay.NodeState
# The names that clients ask the health of; Hubble's own is the second (pkg/hubble/api/v1).
HEALTHY = ("", "hubble.server.Observer", OBSERVER, PEER)
_PATIENCE = 1.0  # seconds after which a watcher looks whether its client is there


class ObserverService:
    """What Hubble's clients ask one host."""

    def __init__(
        self,
        ring: Ring,
        names: Callable[[], Names],
        roster: Roster,
        *,
        tls: bool | Callable[[], bool] = False,
    ) -> None:
        self._ring = ring
        self._names = names
        self._roster = roster
        self._secured = tls if callable(tls) else lambda: tls
        self._started = time.monotonic_ns()
        self._encoder = Encoder(lambda: names().node_name)

    def handlers(self, gate: Callable[[], Gate], streams: int = MAX_STREAMS) -> list[Any]:
        """gRPC's handlers of every service."""
        registry = Registry(gate, Slots(streams))
        health = Health(self._ring)
        made = [
            registry.handler(
                OBSERVER,
                {
                    "GetFlows": self.get_flows,
                    "ServerStatus": self.server_status,
                    "GetNodes": self.get_nodes,
                    "GetNamespaces": self.get_namespaces,
                },
            ),
            registry.handler(PEER, {"Notify": self.notify}),
            registry.handler(HEALTH, {"Check": health.check, "Watch": health.watch}),
        ]
        served = (*registry.names, REFLECTION)
        methods = {"ServerReflectionInfo": lambda requests, _context: reflect(requests, served)}
        return [*made, registry.handler(REFLECTION, methods)]

    # --- observer.Observer ---

    def get_flows(self, request: Any, context: Any) -> Iterator[bytes]:
        """The flows that a request asks for."""
        query = Query(request)
        context.add_callback(self._ring.wake)  # a client that leaves frees its thread at once
        for entry in select(self._ring, query, context.is_active):
            yield self._encoder.response(entry, query)

    def server_status(self, _request: Any, _context: Any) -> Any:
        """How full the ring is."""
        made = message("observer.ServerStatusResponse")()
        self._figures(made)
        made.version = f"wardmesh {__version__}"
        made.flows_rate = self._ring.rate()
        made.num_connected_nodes.value = 1
        made.num_unavailable_nodes.value = 0
        return made

    def _figures(self, made: Any) -> None:
        made.num_flows = len(self._ring)
        made.max_flows = self._ring.capacity
        made.seen_flows = self._ring.seen
        made.uptime_ns = time.monotonic_ns() - self._started

    def get_nodes(self, _request: Any, _context: Any) -> Any:
        """This host; a relay knows the others."""
        made = message("observer.GetNodesResponse")()
        node = made.nodes.add()
        self._figures(node)
        names = self._names()
        node.name, node.version, node.state = names.node_name, f"wardmesh {__version__}", NODE_CONNECTED
        peer = self._roster.peers.get(names.node_name)
        if peer is not None:
            node.address = peer.address
            node.tls.enabled = self._secured()
            node.tls.server_name = peer.server_name if self._secured() else ""
        return made

    def get_namespaces(self, _request: Any, _context: Any) -> Any:
        """Hosts are in no namespace."""
        return message("observer.GetNamespacesResponse")()

    # --- peer.Peer ---

    def notify(self, _request: Any, context: Any) -> Iterator[Any]:
        """The members, and what becomes of them."""
        for kind, peer in self._roster.changes(context.is_active):
            made = message("peer.ChangeNotification")()
            made.name, made.address, made.type = peer.name, peer.address, kind
            if self._secured():
                made.tls.server_name = peer.server_name
            yield made


class Health:
    """gRPC's health service: what runs is serving."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def check(self, request: Any, _context: Any) -> Any:
        """SERVING, or NOT_FOUND for a service that is not here."""
        if request.service not in HEALTHY:
            raise Refused("NOT_FOUND", f"no service {request.service!r}")
        return _health(SERVING)

    def watch(self, request: Any, context: Any) -> Iterator[Any]:
        """The same as a stream that stays open."""
        yield _health(SERVING if request.service in HEALTHY else SERVICE_UNKNOWN)
        while context.is_active() and self._ring.wait(self._ring.end, _PATIENCE):
            pass


def _health(status: int) -> Any:
    made = message("grpc.health.v1.HealthCheckResponse")()
    made.status = status
    return made
