# SPDX-License-Identifier: Apache-2.0
"""The page's answers over HTTP: its files, and JSON of what the model has. Nothing here changes anything.

Only GET and HEAD are known. Every answer, an error too, carries the headers that keep a browser from
running or lending out what is not ours. A plain page answers only to names of this host: a foreign name
that was made to resolve to loopback (DNS rebinding) finds nobody.
"""

from __future__ import annotations

import email.message
import json
import re
import urllib.parse
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol, cast

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.ui.assets import Asset
from wardmesh.observe.ui.model import FlowModel
from wardmesh.observe.ui.view import PARAMETERS, read_view

PATIENCE = 10.0  # seconds without a byte
LONGEST_TARGET = 8192
API = "/api/v1/"
_CURSOR = ("epoch", "cursor", "members")
_NUMBER = re.compile(r"-?[0-9]{1,15}")
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_JSON = "application/json; charset=utf-8"


class Site(Protocol):
    """What a listener knows. hosts: Host headers that are answered; None: any, TLS proves the name."""

    model: FlowModel
    assets: dict[str, Asset]
    hosts: frozenset[str] | None


class Pages(BaseHTTPRequestHandler):
    """One request; the connection ends with its answer."""

    protocol_version = "HTTP/1.1"
    server_version = "wardmesh"
    sys_version = ""
    timeout = PATIENCE
    headers: email.message.Message

    def do_GET(self) -> None:
        """A file, or JSON."""
        self._answer()

    def do_HEAD(self) -> None:
        """The same without its body."""
        self._answer()

    def __getattr__(self, name: str) -> Any:
        """Any other method: http.server looks for do_METHOD, and would say 501 for what it does not find."""
        if name.startswith("do_"):
            return self._refuse_method
        raise AttributeError(name)

    def _refuse_method(self) -> None:
        length = self.headers.get("Content-Length") or ""
        if _NUMBER.fullmatch(length):  # unread bytes would cut the answer off
            self.rfile.read(max(0, min(int(length), LONGEST_TARGET)))
        self._send(405, _JSON, _error("this page is only to be read"), Allow="GET, HEAD")

    def _answer(self) -> None:
        path, _mark, query = self.path.partition("?")
        if not self._known_host():
            self._send(
                421, _JSON, _error("this name is not this page's", "open it as http://localhost:PORT/")
            )
        elif len(self.path) > LONGEST_TARGET:
            self._send(414, _JSON, _error("the address is too long"))
        elif path in self._site.assets:
            self._file(self._site.assets[path])
        elif path.startswith(API):
            self._api(path[len(API) :], query)
        else:
            self._send(404, _JSON, _error("there is no such page"))

    @property
    def _site(self) -> Site:
        return cast("Site", self.server)

    def _known_host(self) -> bool:
        given = self.headers.get_all("Host") or []
        if len(given) != 1:
            return False
        name = re.sub(r":[0-9]{1,5}$", "", given[0].strip()).lower()
        return self._site.hosts is None or name in self._site.hosts

    # --- files ---

    def _file(self, asset: Asset) -> None:
        headers = {"Cache-Control": "no-cache", "ETag": asset.tag, "Vary": "Accept-Encoding"}
        if asset.tag in (self.headers.get("If-None-Match") or ""):
            self._send(304, asset.kind, b"", **headers)
        elif _takes_gzip(self.headers.get("Accept-Encoding") or ""):
            self._send(200, asset.kind, asset.packed, **headers, **{"Content-Encoding": "gzip"})
        else:
            self._send(200, asset.kind, asset.data, **headers)

    # --- JSON ---

    def _api(self, name: str, query: str) -> None:
        try:
            if name == "status":
                _parameters(query, ())
                self._json(self._site.model.status())
            elif name == "updates":
                self._json(self._updates(_parameters(query, (*PARAMETERS, *_CURSOR))))
            else:
                self._send(404, _JSON, _error("there is no such question"))
        except WardmeshError as error:
            self._send(400, _JSON, json.dumps({"error": error.as_dict()}).encode())

    def _updates(self, given: dict[str, str]) -> dict[str, Any]:
        cursor, members = _number(given, "cursor", 0), _number(given, "members", -1)
        return self._site.model.updates(read_view(given), given.get("epoch", ""), cursor, members)

    def _json(self, document: dict[str, Any]) -> None:
        self._send(200, _JSON, json.dumps(document, separators=(",", ":")).encode())

    # --- the wire ---

    def _send(self, status: int, kind: str, data: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in {"Cache-Control": "no-store", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(data)

    def end_headers(self) -> None:
        """Every answer is the last of its connection, and has the headers."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.close_connection = True
        super().end_headers()

    def handle_expect_100(self) -> bool:
        """Nobody has anything to send here."""
        self.send_error(417)
        return False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What http.server itself refuses: malformed requests."""
        self.command = getattr(self, "command", None) or "GET"
        self._send(code, _JSON, _error(message or "this cannot be answered"))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Readers are not logged."""


def _takes_gzip(accepted: str) -> bool:
    words = ["".join(part.split()).lower() for part in accepted.split(",")]
    return any(word.startswith("gzip") and not re.search(r";q=0(\.0*)?$", word) for word in words)


def _error(what: str, remedy: str = "") -> bytes:
    return json.dumps({"error": {"what": what, "remedy": remedy}}).encode()


def _parameters(query: str, known: tuple[str, ...]) -> dict[str, str]:
    """Each at most once, and none that is not known: a filter that was misspelt would show everything."""
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=32)
    except ValueError as error:
        raise WardmeshError("the address cannot be read", why=str(error)) from error
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise WardmeshError(f"{name[:64]!r} is no parameter", remedy=", ".join(known) or "leave it out")
        if name in given:
            raise WardmeshError("this is given twice", where=name)
        given[name] = value
    return given


def _number(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    if not _NUMBER.fullmatch(text):
        raise WardmeshError(f"{text[:64]!r} is no number", where=name)
    return int(text)
