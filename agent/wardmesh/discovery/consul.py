# SPDX-License-Identifier: Apache-2.0
"""A connection to Consul by its HTTP API, for hosts whose fleet has no etcd.

A record is bound to a session by acquiring its key; the session ends when nobody renews it, and its key goes
with it (behaviour delete). Consul lets a session live up to twice its TTL. Changes come from a blocking query
over the whole prefix, compared with what was there before by ModifyIndex; what is missing was deleted.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import queue
import ssl
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from wardmesh.discovery.backend import Change, Entry, unavailable
from wardmesh.discovery.settings import Server, Settings, read_secret
from wardmesh.model.errors import WardmeshError

DEADLINE = 5.0  # seconds for one answer
WAIT = 30  # seconds that a blocking query may take; Consul adds up to a sixteenth
_LARGEST_ANSWER = 64 << 20
_WAITING = 64


class Consul:
    """See backend.Backend. lease: a session's UUID as a number."""

    def __init__(self, settings: Settings, server: Server, lease: int = 0) -> None:
        """Reads the secrets; the first call connects."""
        self.where = server.target
        self.lease = lease
        self._server = server
        self._ttl = f"{max(10, round(settings.lease))}s"
        token = (read_secret(settings.secret_file) or b"").strip().decode("ascii", "replace")
        self._headers = {"X-Consul-Token": token} if token else {}
        self._tls = _context(settings) if server.tls else None
        self._name = settings.server_name
        self._held: dict[str, Entry] = {}
        self._found: queue.Queue[list[Change] | WardmeshError] = queue.Queue(_WAITING)
        self._closed = threading.Event()
        self._watching: http.client.HTTPConnection | None = None

    # --- HTTP ---

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._server.host, self._server.port, timeout=timeout)
        made = http.client.HTTPSConnection(
            self._server.host, self._server.port, timeout=timeout, context=self._tls
        )
        if self._name:
            _present(made, self._tls, self._name)
        return made

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of one call of its own connection."""
        connection = self._connection(DEADLINE)
        try:
            status, _index, data = self._exchange(connection, method, path, body)
        finally:
            connection.close()
        return status, data

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, int, bytes]:
        """Status, X-Consul-Index and body; WardmeshError for everything but 200 and 404."""
        try:
            connection.request(method, path, body=body, headers=self._headers)
            answer = connection.getresponse()
            data = answer.read(_LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException, AttributeError) as error:
            # AttributeError: the connection was closed by another thread
            raise unavailable(self.where, f"{type(error).__name__}: {error}") from error
        if len(data) > _LARGEST_ANSWER:
            raise unavailable(self.where, "the answer is too large")
        if answer.status not in (200, 404):
            words = data[:200].decode(errors="replace").strip()
            raise unavailable(self.where, f"HTTP {answer.status}: {words}")
        index = answer.headers.get("X-Consul-Index", "0")
        return answer.status, int(index) if index.isdigit() else 0, data

    # --- reading ---

    def snapshot(self, prefix: str) -> list[Entry]:
        """Every key below a prefix, as the leader has it; starts to wait for what comes then."""
        connection = self._connection(DEADLINE)
        try:
            path = f"/v1/kv/{quote(prefix)}?recurse&consistent"
            status, index, data = self._exchange(connection, "GET", path)
        finally:
            connection.close()
        self._held = {entry.key: entry for entry in self._entries(status, data)}
        threading.Thread(
            target=self._listen, args=(prefix, max(1, index)), name="consul watch", daemon=True
        ).start()
        return list(self._held.values())

    def _entries(self, status: int, data: bytes) -> list[Entry]:
        if status == 404:
            return []  # no key with this prefix
        try:
            rows = json.loads(data)
            if not isinstance(rows, list):
                raise ValueError("no list")
            return [_entry(row) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise unavailable(self.where, f"not an answer of Consul: {type(error).__name__}") from error

    def _listen(self, prefix: str, index: int) -> None:
        try:
            connection = self._connection(WAIT * 1.1 + DEADLINE)
            self._watching = connection
            while not self._closed.is_set():
                path = f"/v1/kv/{quote(prefix)}?recurse&index={index}&wait={WAIT}s"
                status, fresh, data = self._exchange(connection, "GET", path)
                if fresh < index:
                    raise unavailable(self.where, "its index went back: it was restored")
                index = fresh
                self._tell(self._compare(self._entries(status, data)))
        except WardmeshError as error:
            self._tell(error)

    def _compare(self, entries: list[Entry]) -> list[Change]:
        now = {entry.key: entry for entry in entries}
        gone = [Change(key, None) for key in self._held if key not in now]
        fresh = [
            Change(key, entry)
            for key, entry in now.items()
            if key not in self._held or self._held[key].changed != entry.changed
        ]
        self._held = now
        return gone + fresh

    def _tell(self, item: list[Change] | WardmeshError) -> None:
        while not self._closed.is_set():
            try:
                self._found.put(item, timeout=1.0)
                return
            except queue.Full:
                continue

    def changes(self, timeout: float) -> list[Change]:
        """What the blocking queries found, in order; waits for the first."""
        end = time.monotonic() + timeout
        found: list[Change] = []
        while True:
            try:
                item = self._found.get(timeout=0.0001 if found else max(0.0001, end - time.monotonic()))
            except queue.Empty:
                return found
            if isinstance(item, WardmeshError):
                raise item
            found += item
            if not item and time.monotonic() >= end:
                return found

    def get(self, key: str) -> Entry | None:
        """One key, as the leader has it."""
        status, data = self._ask("GET", f"/v1/kv/{quote(key)}?consistent")
        found = self._entries(status, data)
        return found[0] if found else None

    # --- writing ---

    def put(self, key: str, value: bytes) -> int:
        """Acquire a key for this host's session, which is made when there is none."""
        if not self.lease:
            wish = {"Name": "wardmesh", "TTL": self._ttl, "Behavior": "delete", "LockDelay": "0s"}
            _status, data = self._ask("PUT", "/v1/session/create", json.dumps(wish).encode())
            self.lease = self._session(data)
        held = self.get(key)
        if held is not None and held.lease not in (0, self.lease):
            # A former session of this very host, which the caller has made sure of: let go of it.
            self._ask("PUT", f"/v1/kv/{quote(key)}?release={uuid.UUID(int=held.lease)}", held.value)
        path = f"/v1/kv/{quote(key)}?acquire={uuid.UUID(int=self.lease)}"
        _status, data = self._ask("PUT", path, value)
        if data.strip() != b"true":
            raise unavailable(self.where, "the key could not be acquired")
        return self.lease

    def _session(self, data: bytes) -> int:
        try:
            return uuid.UUID(json.loads(data)["ID"]).int
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise unavailable(self.where, "no session was made") from error

    def renew(self) -> bool:
        """Renew the session. False: it is gone."""
        if not self.lease:
            return False
        status, _data = self._ask("PUT", f"/v1/session/renew/{uuid.UUID(int=self.lease)}")
        if status == 404:
            self.lease = 0
        return bool(self.lease)

    def close(self) -> None:
        """End the blocking query."""
        self._closed.set()
        watching = self._watching
        if watching is not None and watching.sock is not None:
            try:
                watching.sock.shutdown(2)  # wakes the thread that waits in it
            except OSError:
                pass  # it is gone


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        made = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.cert and settings.key:
            made.load_cert_chain(str(settings.cert), str(settings.key))
    except (OSError, ssl.SSLError) as error:
        raise WardmeshError(
            "cannot read a file of the store's",
            where="consul.tls",
            why=f"{type(error).__name__}: {error}",
            remedy="correct the paths of consul.tls in the configuration",
        ) from error
    return made


def _present(connection: http.client.HTTPSConnection, context: ssl.SSLContext, name: str) -> None:
    """Check the server's certificate for another name than the host's."""

    def connect() -> None:
        http.client.HTTPConnection.connect(connection)
        connection.sock = context.wrap_socket(connection.sock, server_hostname=name)

    connection.connect = connect  # type: ignore[method-assign]


def _entry(row: Mapping[str, Any]) -> Entry:
    try:
        value = base64.b64decode(row["Value"] or "", validate=True)
    except binascii.Error as error:
        raise ValueError("value") from error
    session = row.get("Session")
    lease = uuid.UUID(session).int if session else 0
    return Entry(str(row["Key"]), value, int(row["CreateIndex"]), int(row["ModifyIndex"]), lease)
