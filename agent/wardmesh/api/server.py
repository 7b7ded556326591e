# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 over /run/wardmesh/wardmesh.sock; JSON in and out. Root's, and the group wardmesh's."""

from __future__ import annotations

import grp
import json
import os
import socketserver
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from wardmesh.model.errors import WardmeshError

Handler = Callable[[], Mapping[str, Any]]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    routes: Mapping[tuple[str, str], Handler]


class _Request(BaseHTTPRequestHandler):
    server: _Server

    def _serve(self, method: str) -> None:
        handler = self.server.routes.get((method, self.path))
        if handler is None:
            self._answer(
                404, {"error": {"what": "no such path", "where": self.path, "why": "", "remedy": ""}}
            )
            return
        try:
            self._answer(200, handler())
        except WardmeshError as error:
            self._answer(400, {"error": error.as_dict()})

    def _answer(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Requests are not logged: status is polled."""

    def address_string(self) -> str:
        return "local"


def serve(path: Path, routes: Mapping[tuple[str, str], Handler]) -> socketserver.BaseServer:
    """Start serving in a thread; the socket has its mode before anybody can connect."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    old = os.umask(0o117)
    try:
        server = _Server(str(path), _Request)
    finally:
        os.umask(old)
    try:
        os.chown(path, 0, grp.getgrnam("wardmesh").gr_gid)
    except (KeyError, PermissionError):
        os.chmod(path, 0o600)
    server.routes = routes
    threading.Thread(target=server.serve_forever, daemon=True, name="api").start()
    return server
