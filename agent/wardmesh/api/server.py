# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 over /run/wardmesh/wardmesh.sock; JSON in and out. Root's, and the group wardmesh's.

An error is {"error": {"what", "where", "why", "remedy"}} with status 400 (404 for an unknown path).
"""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from wardmesh.host.files import open_to_group
from wardmesh.model.errors import WardmeshError

Body = Mapping[str, Any]
Routes = Mapping["tuple[str, str]", Callable[[Body], Mapping[str, Any]]]
_LONGEST_BODY = 8 << 20  # a whole set of policies
MOST_CLIENTS = 64  # each has a thread of the process that enforces


class _Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    routes: Routes

    def __init__(self, path: str) -> None:
        self._room = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(path, _Request)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Only so many at once; who comes then is closed, and may try again."""
        return self._room.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Into a thread; one that cannot be made gives its place back."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One client's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is none of our business."""


class _Request(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds for a client to send its request

    def _serve(self) -> None:
        try:
            handler = self.server.routes.get((self.command, self.path))
            body = self._body()
            if handler is None:
                self._fail(404, WardmeshError("no such request", where=f"{self.command} {self.path}"))
            else:
                self._answer(200, handler(body))
        except WardmeshError as error:
            self._fail(400, error)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001  the edge: the client gets an answer
            why = f"{type(error).__name__}: {error}"
            self._fail(500, WardmeshError("unexpected error", why=why, remedy="journalctl -u wardmesh"))

    def do_GET(self) -> None:
        """Read."""
        self._serve()

    def do_POST(self) -> None:
        """Change."""
        self._serve()

    def _body(self) -> Body:
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > _LONGEST_BODY:
            raise WardmeshError("the request is too long", why=f"{length} bytes, at most {_LONGEST_BODY}")
        data = self.rfile.read(int(length))
        try:
            document = json.loads(data or b"{}")
        except ValueError as error:
            raise WardmeshError("the request is not JSON", why=str(error)) from error
        if not isinstance(document, dict):
            raise WardmeshError("the request is not a JSON object")
        return document

    def _fail(self, status: int, error: WardmeshError) -> None:
        self._answer(status, {"error": error.as_dict()})

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are not logged: status is polled."""

    def address_string(self) -> str:
        """A unix socket's peer has no address."""
        return "local"


class Server:
    """Listens from its making on; each request has a thread of its own."""

    def __init__(self, path: Path, routes: Routes) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        old = os.umask(0o177)  # nobody may connect before the socket has its group
        try:
            self._listener = _Listener(str(path))
        except OSError as error:
            raise WardmeshError(
                "cannot listen",
                where=str(path),
                why=error.strerror or str(error),
                remedy="run as root, and see that the folder can be written",
            ) from error
        finally:
            os.umask(old)
        open_to_group(path)
        self._listener.routes = routes
        threading.Thread(target=self._listener.serve_forever, daemon=True, name="api").start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown()
        self._listener.server_close()
        self._path.unlink(missing_ok=True)
