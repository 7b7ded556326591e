# SPDX-License-Identifier: Apache-2.0
"""A gRPC server without generated code: methods by name, errors as statuses, bounds on what clients cost.

Every stream holds a thread of the pool for as long as its client stays, so streams have a limit of their own
below the pool's size: however many clients follow, a thread is left for short questions. A client that does
not read blocks its own stream (HTTP/2 flow control) and nothing else; what it misses is told as lost events.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

from wardmesh import __version__
from wardmesh.host.files import open_to_group
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.credentials import Reloading
from wardmesh.observe.listen import Binding, Gate
from wardmesh.observe.needs import need
from wardmesh.observe.proto import message, service
from wardmesh.observe.settings import Tls

MAX_STREAMS = 128
MAX_UNARY = 16
_MAX_WAITING = 512  # calls that wait for a thread; gRPC refuses the others by itself
_LARGEST_REQUEST = 1 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_REQUEST),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a partner
    ("grpc.keepalive_time_ms", 60_000),  # clients that are gone without a word give their stream back
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
Unary = Callable[[Any, Any], Any]
Stream = Callable[[Any, Any], Iterator[Any]]
Method = Callable[[Any, Any], Any]


class Refused(Exception):  # noqa: N818  a status, not an error of ours
    """The answer is a status: its name in grpc.StatusCode, and words."""

    def __init__(self, status: str, words: str) -> None:
        super().__init__(words)
        self.status = status


class Slots:
    """So many streams at once."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)
        self.count = count

    def __enter__(self) -> None:
        if not self._free.acquire(blocking=False):
            raise Refused("RESOURCE_EXHAUSTED", f"{self.count} streams are open already; try again later")

    def __exit__(self, *_args: object) -> None:
        self._free.release()


class Registry:
    """Collects the methods of services, and makes gRPC's handlers of them."""

    def __init__(self, gate: Callable[[], Gate], slots: Slots, header: str = "hubble-server-version") -> None:
        self._gate = gate
        self._slots = slots
        self._header = (header, __version__)
        self.names: list[str] = []

    def handler(self, name: str, methods: Mapping[str, Method]) -> Any:
        """The handler of one service; methods that are not given answer UNIMPLEMENTED by themselves."""
        grpc = need("grpc")
        made = {}
        for method in service(name).methods:
            if method.name in methods:
                call = methods[method.name]
                stream = streaming(name, method.name)[1]
                wrapped = self._stream(grpc, call) if stream else self._unary(grpc, call)
                made[method.name] = method_handler(name, method.name, wrapped)
        self.names.append(name)
        return grpc.method_handlers_generic_handler(name, made)

    def _admit(self, context: Any) -> None:
        check_admission(self._gate(), context)
        context.send_initial_metadata((self._header,))

    def _unary(self, grpc: Any, call: Unary) -> Unary:
        def wrapped(request: Any, context: Any) -> Any:
            try:
                self._admit(context)
                return call(request, context)
            except (Refused, WardmeshError) as error:
                _abort(grpc, context, error)

        return wrapped

    def _stream(self, grpc: Any, call: Stream) -> Stream:
        def wrapped(request: Any, context: Any) -> Iterator[Any]:
            try:
                self._admit(context)
                with self._slots:
                    yield from call(request, context)
            except (Refused, WardmeshError) as error:
                _abort(grpc, context, error)

        return wrapped


def check_admission(gate: Gate, context: Any) -> None:
    """Refused, unless the gate admits who asks. context: of either kind of server."""
    if gate.revokes:
        for shown in context.auth_context().get("x509_pem_cert", ()):
            if not gate.trusts(ssl.PEM_cert_to_DER_cert(shown.decode("ascii"))):
                raise Refused("UNAUTHENTICATED", "this certificate was revoked")
    if gate.members_only and not gate.knows(context.auth_context().get("x509_subject_alternative_name", ())):
        raise Refused("PERMISSION_DENIED", "this certificate is of a host that is no member any more")
    if not gate.admits(context.peer()):
        raise Refused("PERMISSION_DENIED", "this address is no member's, and shows no certificate")


def streaming(service_name: str, method: str) -> tuple[bool, bool]:
    """Does a method stream in, and out? The descriptor's own properties came with protobuf 3.20."""
    descriptor = need("google.protobuf.descriptor_pb2").ServiceDescriptorProto()
    service(service_name).CopyToProto(descriptor)
    found = next(item for item in descriptor.method if item.name == method)
    return bool(found.client_streaming), bool(found.server_streaming)


def method_handler(service_name: str, name: str, call: Any) -> Any:
    """gRPC's handler of one method, for its synchronous server or the one of asyncio."""
    streams_in, streams_out = streaming(service_name, name)
    kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
    method = service(service_name).methods_by_name[name]
    return getattr(need("grpc"), f"{kind}_rpc_method_handler")(
        call,
        request_deserializer=message(method.input_type.full_name).FromString,
        response_serializer=serialize,
    )


def serialize(answer: Any) -> bytes:
    """A message, or one that was encoded already."""
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


def _abort(grpc: Any, context: Any, error: Exception) -> None:
    status = error.status if isinstance(error, Refused) else "INVALID_ARGUMENT"
    context.abort(getattr(grpc.StatusCode, status), str(error))


class RpcServer:
    """A running server on a socket and on TCP addresses."""

    def __init__(
        self, handlers: Iterable[Any], socket: Path | None, bindings: Iterable[Binding], tls: Tls | None
    ) -> None:
        grpc = need("grpc")
        workers = MAX_STREAMS + MAX_UNARY
        self._socket = socket
        self._pool = futures.ThreadPoolExecutor(workers, thread_name_prefix="hubble")
        self._server = grpc.server(
            self._pool,
            handlers=tuple(handlers),
            options=OPTIONS,
            maximum_concurrent_rpcs=workers + _MAX_WAITING,
        )
        if socket is not None:
            self._listen_on_socket(socket)
        credentials = Reloading(tls).credentials() if tls else None
        for binding in bindings:
            self._bind(binding.target(), credentials if binding.tls else None)
        self._server.start()

    def _listen_on_socket(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        old = os.umask(0o177)  # nobody may connect before the socket has its group
        try:
            self._bind(f"unix:{path}", None)
        finally:
            os.umask(old)
        open_to_group(path)

    def _bind(self, target: str, credentials: Any) -> None:
        try:
            if credentials is None:
                port = self._server.add_insecure_port(target)
            else:
                port = self._server.add_secure_port(target, credentials)
        except RuntimeError:
            port = 0  # newer versions raise, older ones answer 0
        if not port:
            raise WardmeshError(
                "cannot listen",
                where=target,
                why="the address is in use, or not this host's",
                remedy="ss -xltnp shows who listens",
            )

    def close(self, grace: float = 0.5) -> None:
        """Stop; streams are cut after so many seconds."""
        self._server.stop(grace).wait()
        self._pool.shutdown(wait=False)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
