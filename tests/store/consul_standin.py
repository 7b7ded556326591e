# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Consul: the part of its documented HTTP API that is used, as its documents describe it.

There is no Consul among the packages that tests may use. What this server does not prove is that a real one
keeps to its documents; everything else (sessions, blocking queries, indexes, acquire, tokens) is as written
there. Time to live: Consul may take up to twice as long, this one takes it exactly.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from wardmesh.discovery.settings import CONSUL, Server, Settings


class Standin:
    """State and server. ttl: seconds instead of what sessions ask for; Consul takes none so short."""

    def __init__(self, token: str = "", ttl: float = 3.0, port: int = 0) -> None:
        self.token, self.ttl = token, ttl
        self.index = 10
        self.keys: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, float] = {}
        self.broken = 0  # status that every call is answered with
        self.stalled = threading.Event()
        self.changed = threading.Condition()
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def do_PUT(self) -> None:
                outer.answer(self)

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        self.tls = False

    def secure(self, cert: Path, key: Path) -> Standin:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(cert), str(key))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.tls = True
        return self

    def start(self) -> Standin:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        threading.Thread(target=self._expire, daemon=True).start()
        return self

    def end(self) -> None:
        self._over.set()
        with self.changed:
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    def settings(self, **more: Any) -> Settings:
        server = Server("127.0.0.1", self.port, self.tls)
        return Settings((server,), **{"lease": 10.0, "grace": 60.0, "kind": CONSUL, **more})

    # --- the state ---

    def _bump(self) -> int:
        self.index += 1
        self.changed.notify_all()
        return self.index

    def write(self, key: str, value: bytes, session: str = "") -> None:
        """Put a key as somebody else would."""
        with self.changed:
            now = self._bump()
            held = self.keys.get(key, {"CreateIndex": now})
            self.keys[key] = {**held, "ModifyIndex": now, "Value": value, "Session": session}

    def wipe(self) -> None:
        """As after a restore from an empty backup: no key, no session, and the index begins again."""
        with self.changed:
            self.keys, self.sessions, self.index = {}, {}, 1
            self.changed.notify_all()

    def drop(self, key: str) -> None:
        with self.changed:
            del self.keys[key]
            self._bump()

    def _expire(self) -> None:
        while not self._over.wait(0.1):
            with self.changed:
                for session in [name for name, until in self.sessions.items() if until < time.monotonic()]:
                    del self.sessions[session]
                    for key in [key for key, row in self.keys.items() if row["Session"] == session]:
                        del self.keys[key]
                        self._bump()

    # --- HTTP ---

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        while self.stalled.is_set() and not self._over.is_set():
            time.sleep(0.05)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if self.broken:
            status, data = self.broken, b"No cluster leader"
        elif self.token and request.headers.get("X-Consul-Token") != self.token:
            status, data = 403, b"Permission denied"
        else:
            status, data = self._route(request.command, unquote(parts.path), query, body)
        try:
            request.send_response(status)
            request.send_header("Content-Length", str(len(data)))
            request.send_header("X-Consul-Index", str(self.index))
            request.end_headers()
            request.wfile.write(data)
        except OSError:
            request.close_connection = True

    def _route(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if path == "/v1/session/create":
            name = str(uuid.uuid4())
            assert json.loads(body)["Behavior"] == "delete"
            with self.changed:
                self.sessions[name] = time.monotonic() + self.ttl
            return 200, json.dumps({"ID": name}).encode()
        if path.startswith("/v1/session/renew/"):
            name = path.rsplit("/", 1)[1]
            with self.changed:
                if name not in self.sessions:
                    return 404, b"Session id not found"
                self.sessions[name] = time.monotonic() + self.ttl
            return 200, b"[]"
        key = path[len("/v1/kv/") :]
        return self._get(key, query) if method == "GET" else self._put(key, query, body)

    def _get(self, key: str, query: dict[str, str]) -> tuple[int, bytes]:
        with self.changed:
            if "index" in query:
                end = time.monotonic() + min(float(query["wait"].rstrip("s")), 30.0)
                while (
                    self.index == int(query["index"]) and time.monotonic() < end and not self._over.is_set()
                ):
                    self.changed.wait(0.5)
            found = [
                {
                    **row,
                    "Key": name,
                    "Value": base64.b64encode(row["Value"]).decode(),
                    "LockIndex": 0,
                    "Flags": 0,
                }
                for name, row in sorted(self.keys.items())
                if name == key or ("recurse" in query and name.startswith(key))
            ]
        for row in found:
            if not row["Session"]:
                del row["Session"]
        return (200, json.dumps(found).encode()) if found else (404, b"")

    def _put(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes]:
        with self.changed:
            holder = self.keys.get(key, {}).get("Session", "")
            if "acquire" in query:
                if query["acquire"] not in self.sessions:
                    return 500, b"invalid session"
                if holder not in ("", query["acquire"]):
                    return 200, b"false"
                holder = query["acquire"]
            elif "release" in query:
                if holder != query["release"]:
                    return 200, b"false"
                holder = ""
        self.write(key, body, holder)
        return 200, b"true"
