# SPDX-License-Identifier: Apache-2.0
"""A client of the Hubble API: of this host's observer, a relay, or of Cilium's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.credentials import read_pem
from wardmesh.observe.needs import need
from wardmesh.observe.proto import message

UNARY_TIMEOUT = 12.0  # seconds; that of Hubble's client
DIAL_TIMEOUT = 5.0
_LARGEST_ANSWER = 4 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    ("grpc.enable_http_proxy", 0),  # members are reached directly, whatever the environment says
    # gRPC's own 120,000 would keep a member unseen for two minutes after a night without it.
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True)
class Access:
    """How a server is reached. target: unix://PATH, HOST:PORT or tls://HOST:PORT."""

    target: str
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""

    @property
    def encrypted(self) -> bool:
        """By TLS?"""
        return self.tls or self.target.startswith("tls://")

    def address(self) -> str:
        """As gRPC wants it."""
        if self.target.startswith(("unix:", "/")):
            path = re.sub(r"^unix:(//)?", "", self.target)
            return f"unix:{path}"
        return re.sub(r"^(tls|tcp)://", "", self.target)


def open_channel(access: Access, factory: Any = None) -> Any:
    """A channel; factory: grpc or grpc.aio. Nothing is sent before the first call."""
    grpc = need("grpc")
    made = factory or grpc
    options: list[tuple[str, Any]] = list(OPTIONS)
    if not access.encrypted:
        return made.insecure_channel(access.address(), options=options)
    if access.server_name:
        options.append(("grpc.ssl_target_name_override", access.server_name))
    credentials = grpc.ssl_channel_credentials(
        read_pem(access.ca) if access.ca else None,
        read_pem(access.key) if access.key else None,
        read_pem(access.cert) if access.cert else None,
    )
    return made.secure_channel(access.address(), credentials, options=options)


class ObserverClient:
    """Calls of observer.Observer; every failure is one WardmeshError."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._channel = open_channel(access)
        self._reached = False

    def __enter__(self) -> ObserverClient:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the server; a stream that another thread reads ends with an error."""
        self._channel.close()

    def flows(self, request: Any) -> Iterator[Any]:
        """GetFlowsResponse after GetFlowsResponse."""
        grpc = need("grpc")
        call = self._channel.unary_stream(
            "/observer.Observer/GetFlows",
            request_serializer=_bytes_of,
            response_deserializer=message("observer.GetFlowsResponse").FromString,
        )
        try:
            self._reach(grpc)
            yield from call(request)
        except grpc.RpcError as error:
            raise self._told(error) from error

    def ask(self, method: str) -> Any:
        """A method without arguments: ServerStatus, GetNodes, GetNamespaces."""
        grpc = need("grpc")
        call = self._channel.unary_unary(
            f"/observer.Observer/{method}",
            request_serializer=_bytes_of,
            response_deserializer=message(f"observer.{method}Response").FromString,
        )
        try:
            self._reach(grpc)
            return call(message(f"observer.{method}Request")(), timeout=UNARY_TIMEOUT)
        except grpc.RpcError as error:
            raise self._told(error) from error

    def _reach(self, grpc: Any) -> None:
        """Wait for the first connection; later ones are gRPC's business, and calls say when it fails."""
        if self._reached:
            return
        address = self._access.address()
        try:
            if address.startswith("unix:") and not os.path.exists(address[5:]):
                raise grpc.FutureTimeoutError  # nobody has made the socket: there is nothing to wait for
            grpc.channel_ready_future(self._channel).result(DIAL_TIMEOUT)
            self._reached = True
        except grpc.FutureTimeoutError as error:
            raise WardmeshError(
                "nobody answers for the Hubble API",
                where=self._access.target,
                why="no connection",
                remedy="systemctl status wardmesh-observer; see hubble.enabled, or name another --server",
            ) from error

    def _told(self, error: Any) -> WardmeshError:
        code = error.code()
        word = code.name.lower().replace("_", " ") if code is not None else "unknown"
        return WardmeshError(
            str(error.details() or "the server broke off"), where=self._access.target, why=word
        )


def _bytes_of(made: Any) -> bytes:
    return bytes(made.SerializeToString())
