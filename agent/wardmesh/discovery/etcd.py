# SPDX-License-Identifier: Apache-2.0
"""A connection to one etcd server, by gRPC. Everything has a deadline; any failure ends the connection.

Reads are linearised (etcd's default), so a server cut off from its majority answers nothing rather than
something old. A snapshot comes in pages at one revision, and the watch begins at the next one. A watch that
was compacted away ends the connection, and the next one begins with a snapshot.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from wardmesh.discovery.backend import Change, Entry, unavailable
from wardmesh.discovery.etcd_api import (
    DELETE_CALL,
    DELETED,
    GRANT_CALL,
    KEEP_CALL,
    LOGIN_CALL,
    PUT_CALL,
    RANGE_CALL,
    TXN_CALL,
    WATCH_CALL,
    Method,
)
from wardmesh.discovery.keys import prefix_end
from wardmesh.discovery.settings import Server, Settings, read_secret
from wardmesh.discovery.wire import decode, encode
from wardmesh.model.errors import WardmeshError

DEADLINE = 5.0  # seconds for one answer
PAGE = 256  # keys in one page, upstream's size
_LARGEST_ANSWER = 16 << 20  # bytes; a page that is larger is asked for again with fewer keys
_WAITING = 1024  # answers of a watch that wait; beyond, gRPC slows the server down
_END = object()


def _grpc() -> Any:
    try:
        import grpc
    except ImportError as error:
        raise WardmeshError(
            "python3-grpcio is not installed",
            why=str(error),
            remedy="install python3-grpcio from the distribution; etcd needs it",
        ) from error
    return grpc


class Etcd:
    """See backend.Backend. lease: the number of one that an earlier connection made, 0 is none."""

    def __init__(self, settings: Settings, server: Server, lease: int = 0) -> None:
        """Connects, and logs in where there is a user."""
        self.where = server.target
        self.lease = lease
        self.cluster = 0  # etcd's own number of its cluster
        self._grpc = _grpc()
        self._ttl = max(1, round(settings.lease))
        self._revision = 0
        self._token: tuple[tuple[str, str], ...] = ()
        self._answers: queue.Queue[Any] = queue.Queue(_WAITING)
        self._watch: Any = None
        self._closed = threading.Event()
        self._channel = self._open(settings, server)
        try:
            if settings.username:
                self._login(settings)
        except WardmeshError:
            self.close()
            raise

    def _open(self, settings: Settings, server: Server) -> Any:
        options: list[tuple[str, object]] = [
            ("grpc.max_receive_message_length", _LARGEST_ANSWER),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, without another one's backoff
            ("grpc.enable_http_proxy", 0),
        ]
        if not server.tls:
            return self._grpc.insecure_channel(server.target, options=options)
        if settings.server_name:
            options.append(("grpc.ssl_target_name_override", settings.server_name))
        credentials = self._grpc.ssl_channel_credentials(
            root_certificates=read_secret(settings.ca),
            private_key=read_secret(settings.key),
            certificate_chain=read_secret(settings.cert),
        )
        return self._grpc.secure_channel(server.target, credentials, options=options)

    def _login(self, settings: Settings) -> None:
        password = (read_secret(settings.secret_file) or b"").strip()
        answer = self.ask(LOGIN_CALL, {"name": settings.username.encode(), "password": password})
        self._token = (("token", answer["token"].decode("ascii", "replace")),)

    # --- calls ---

    def _stub(self, method: Method, *, stream: bool = False) -> Any:
        make = self._channel.stream_stream if stream else self._channel.unary_unary
        return make(
            method.path,
            request_serializer=lambda message: encode(method.question, message),
            response_deserializer=lambda data: decode(method.answer, data),
        )

    def ask(self, method: Method, message: dict[str, Any]) -> dict[str, Any]:
        """One call; WardmeshError with the status where it fails."""
        try:
            found: dict[str, Any] = self._stub(method)(message, timeout=DEADLINE, metadata=self._token)
        except self._grpc.RpcError as error:
            raise self._failed(error) from error
        self._same_cluster(found.get("header") or {})
        return found

    def _failed(self, error: Any) -> WardmeshError:
        status, words = error.code(), str(error.details() or "")[:300]
        return unavailable(self.where, f"{status.name}: {words}")

    def _same_cluster(self, header: dict[str, Any]) -> None:
        number = header.get("cluster", 0)
        if number and self.cluster and number != self.cluster:
            raise unavailable(self.where, "behind this address is another etcd cluster now")
        self.cluster = number or self.cluster

    # --- reading ---

    def snapshot(self, prefix: str) -> list[Entry]:
        """Every key below a prefix; starts the watch behind it."""
        entries, revision = self.listing(prefix)
        self._follow(prefix, revision + 1)
        return entries

    def listing(self, prefix: str) -> tuple[list[Entry], int]:
        """Every key below a prefix, and the revision that they are of."""
        key, end, size = prefix.encode(), prefix_end(prefix), PAGE
        entries: list[Entry] = []
        revision = 0
        while True:
            question = {"key": key, "end": end, "limit": size, "revision": revision}
            try:
                page = self._stub(RANGE_CALL)(question, timeout=DEADLINE, metadata=self._token)
            except self._grpc.RpcError as error:
                if error.code() is self._grpc.StatusCode.RESOURCE_EXHAUSTED and size > 1:
                    size = max(1, size // 8)  # huge records: fewer at once
                    continue
                raise self._failed(error) from error
            self._same_cluster(page["header"])
            revision = revision or page["header"]["revision"]
            entries += [_entry(item) for item in page["kvs"]]
            if not page["more"] or not page["kvs"]:
                return entries, revision
            key = page["kvs"][-1]["key"] + b"\0"

    def _follow(self, prefix: str, start: int) -> None:
        create = {"key": prefix.encode(), "end": prefix_end(prefix), "start": start, "fragment": 1}

        def questions() -> Iterator[dict[str, Any]]:
            yield {"create": create}
            self._closed.wait()  # the stream stays open for as long as this does not end

        metadata = (*self._token, ("hasleader", "true"))  # a server without a leader ends the watch
        self._watch = self._stub(WATCH_CALL, stream=True)(questions(), metadata=metadata)
        threading.Thread(target=self._listen, args=(self._watch,), name="etcd watch", daemon=True).start()
        first = self._answer(DEADLINE)
        if first is None or not first["created"]:
            raise unavailable(self.where, "the watch was not made within its time")

    def _listen(self, watch: Any) -> None:
        try:
            for answer in watch:
                self._pass_on(answer)
            self._pass_on(_END)
        except (self._grpc.RpcError, WardmeshError) as error:
            self._pass_on(error)

    def _pass_on(self, item: Any) -> None:
        while not self._closed.is_set():
            with suppress(queue.Full):
                self._answers.put(item, timeout=1.0)
                return

    def _answer(self, timeout: float) -> dict[str, Any] | None:
        """The next answer of the watch; None when time is up."""
        try:
            item = self._answers.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None
        if item is _END:
            raise unavailable(self.where, "the server ended the watch")
        if isinstance(item, WardmeshError):
            raise item
        if isinstance(item, Exception):
            raise self._failed(item)
        found: dict[str, Any] = item
        if found["canceled"] or found["compacted"]:
            why = found["reason"].decode(errors="replace")[:200]
            raise unavailable(self.where, f"the watch is over: {why or 'compacted'}")
        return found

    def changes(self, timeout: float) -> list[Change]:
        """What the watch told of, in order; waits for the first."""
        end = time.monotonic() + timeout
        found: list[Change] = []
        while True:
            answer = self._answer(0.0 if found else end - time.monotonic())
            if answer is None:
                return found
            for event in answer["events"]:
                entry = _entry(event["kv"])
                found.append(Change(entry.key, None if event["type"] == DELETED else entry))

    def get(self, key: str) -> Entry | None:
        """One key, by agreement of a majority."""
        found = self.ask(RANGE_CALL, {"key": key.encode()})["kvs"]
        return _entry(found[0]) if found else None

    # --- writing ---

    def put(self, key: str, value: bytes) -> int:
        """Write under the lease; a new one where there is none."""
        lease = self._granted()
        self.ask(PUT_CALL, {"key": key.encode(), "value": value, "lease": lease})
        return lease

    def _granted(self) -> int:
        if not self.lease:
            answer = self.ask(GRANT_CALL, {"ttl": self._ttl})
            if answer["error"] or not answer["id"]:
                raise unavailable(self.where, f"no lease: {answer['error'].decode(errors='replace')[:200]}")
            self.lease = answer["id"]
        return self.lease

    def keep(self, key: str, value: bytes) -> None:
        """Write without a lease."""
        self.ask(PUT_CALL, {"key": key.encode(), "value": value})

    def remove(self, key: str) -> None:
        """Delete one key."""
        self.ask(DELETE_CALL, {"key": key.encode()})

    def claim(self, key: str, value: bytes) -> bool:
        """Write a key under the lease if nobody has it (version 0); did it work?"""
        question = {
            "compare": [{"key": key.encode()}],
            "success": [{"put": {"key": key.encode(), "value": value, "lease": self._granted()}}],
        }
        return bool(self.ask(TXN_CALL, question)["succeeded"])

    def renew(self) -> bool:
        """One keep-alive. False: the lease is gone, and forgotten here."""
        if not self.lease:
            return False
        stub = self._stub(KEEP_CALL, stream=True)
        try:
            call = stub(iter([{"id": self.lease}]), timeout=DEADLINE, metadata=self._token)
            answer = next(iter(call))
            call.cancel()
        except StopIteration as error:
            raise unavailable(self.where, "no answer to the lease's renewal") from error
        except self._grpc.RpcError as error:
            raise self._failed(error) from error
        if answer["ttl"] <= 0:
            self.lease = 0
        return bool(self.lease)

    def close(self) -> None:
        """End the watch and the connection."""
        self._closed.set()
        if self._watch is not None:
            self._watch.cancel()
        self._channel.close()


def _entry(item: dict[str, Any]) -> Entry:
    return Entry(
        item["key"].decode(errors="replace"), item["value"], item["created"], item["changed"], item["lease"]
    )
