# SPDX-License-Identifier: Apache-2.0
"""Flows, a fleet, servers in this process, and a client made from the project's own descriptors."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from wardmesh.model.fleetmap import FleetMap, canonical, digest_of
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.observe.flow import Direction, Flow, FlowEvent, Kind, TcpFlag, Verdict
from wardmesh.observe.listen import Gate
from wardmesh.observe.names import Namer, Names
from wardmesh.observe.proto import message, service
from wardmesh.observe.ring import Ring
from wardmesh.observe.roster import Roster, peers_of
from wardmesh.observe.rpc import MAX_STREAMS, RpcServer, streaming
from wardmesh.observe.server import ObserverService

HOSTS: Mapping[str, tuple[str, dict[str, str]]] = {
    "web1": ("10.0.0.1", {"app": "web", "env": "prod"}),
    "web2": ("10.0.0.2", {"app": "web", "env": "stage"}),
    "db1": ("10.0.0.11", {"app": "db", "env": "prod"}),
    "db1.example.com": ("10.0.0.12", {}),
}
TIME = 1_700_000_000_000_000_000  # 2023-11-14T22:13:20Z, in unix ns


def fleet_bytes(hosts: Mapping[str, tuple[str, dict[str, str]]] = HOSTS, generation: int = 1) -> bytes:
    """A fleet map as it lies on a host."""
    members = [
        {
            "name": name,
            "key": base64.b64encode((place + 1).to_bytes(2, "big") * 16).decode(),
            "addresses": [address],
            "labels": labels,
        }
        for place, (name, (address, labels)) in enumerate(hosts.items())
    ]
    document = {
        "format": 1,
        "generation": generation,
        "cluster": {"name": "lab", "id": 1},
        "members": members,
    }
    return canonical({**document, "digest": digest_of(document)}) + b"\n"


def fleet(hosts: Mapping[str, tuple[str, dict[str, str]]] = HOSTS) -> FleetMap:
    """The same, parsed."""
    return parse_fleet_map(fleet_bytes(hosts), "test")


def event(number: int = 0, **changes: Any) -> FlowEvent:
    """A SYN from web1 to db1:5432, allowed on its way in; number: milliseconds after TIME."""
    made = FlowEvent(
        time_ns=TIME + number * 1_000_000,
        node="db1",
        kind=Kind.VERDICT,
        verdict=Verdict.FORWARDED,
        direction=Direction.INGRESS,
        protocol=6,
        source=ipaddress.ip_address("10.0.0.1"),
        destination=ipaddress.ip_address("10.0.0.11"),
        source_port=40000 + number % 20000,
        destination_port=5432,
        is_reply=False,
        tcp_flags=TcpFlag.SYN.value,
        policy_match_type=2,
        interface_index=2,
        interface="eth0",
        encrypted=True,
    )
    for name in ("source", "destination"):
        if isinstance(changes.get(name), str):
            changes[name] = ipaddress.ip_address(changes[name])
    return made._replace(**changes)


def namer(own: str = "db1") -> Namer:
    """Names of the fleet above."""
    return Namer(Names(fleet(), own))


def flow(number: int = 0, **changes: Any) -> Flow:
    """The flow of such an event."""
    return namer().flow(event(number, **changes))


class Client:
    """The methods of one service as functions; a stream answers with gRPC's own iterator."""

    def __init__(self, channel: grpc.Channel, name: str = "observer.Observer") -> None:
        self._name = name
        for method in service(name).methods:
            streams_in, streams_out = streaming(name, method.name)
            kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
            call = getattr(channel, kind)(
                f"/{name}/{method.name}",
                request_serializer=lambda sent: sent.SerializeToString(),
                response_deserializer=message(method.output_type.full_name).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def request(**fields: Any) -> Any:
    """A GetFlowsRequest."""
    return message("observer.GetFlowsRequest")(**fields)


def flow_filter(**fields: Any) -> Any:
    """A FlowFilter."""
    return message("flow.FlowFilter")(**fields)


class Served:
    """A server in this process on a socket."""

    def __init__(
        self, folder: Path, capacity: int = 255, own: str = "db1", streams: int = MAX_STREAMS
    ) -> None:
        self.ring = Ring(capacity)
        self.namer = namer(own)
        self.roster = Roster(peers_of(self.namer.names.fleet, 4244))
        self.service = ObserverService(self.ring, lambda: self.namer.names, self.roster)
        self.socket = folder / f"{own}.sock"
        gate = Gate((), certified=False)
        self.server = RpcServer(self.service.handlers(lambda: gate, streams), self.socket, (), None)

    @property
    def target(self) -> str:
        return f"unix:{self.socket}"

    def add(self, *events: FlowEvent) -> list[Flow]:
        flows = [self.namer.flow(item) for item in events]
        self.ring.add(flows)
        return flows

    def close(self) -> None:
        self.ring.close()
        self.roster.close()
        self.server.close(0)


@contextlib.contextmanager
def served(folder: Path, **how: Any) -> Iterator[tuple[Served, Client]]:
    """A server and a client of it."""
    running = Served(folder, **how)
    try:
        with grpc.insecure_channel(running.target) as channel:
            yield running, Client(channel)
    finally:
        running.close()


class Collector:
    """Reads a stream in a thread of its own."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.got: list[Any] = []
        self.error: grpc.RpcError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self.stream:
                self.got.append(item)
        except grpc.RpcError as error:
            self.error = error

    def stop(self) -> Sequence[Any]:
        self.stream.cancel()
        self._thread.join(10)
        return self.got
