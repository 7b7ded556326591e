# SPDX-License-Identifier: Apache-2.0
"""The few bytes of HTTP that members exchange on the health port: GET /hello, and 200 with no content.
Who comes by the tunnel may ask for the digest of what this host enforces, too."""

from __future__ import annotations

from wardmesh.model.config import HEALTH_PORT

PORT = HEALTH_PORT
REQUEST_MAX = 1024  # bytes; a check sends 60
REQUEST = b"GET /hello HTTP/1.1\r\nHost: wardmesh\r\nConnection: close\r\n\r\n"
_METHODS = (b"GET", b"HEAD")


DIGEST = "/v1/digest"


def wants_digest(data: bytes) -> bool:
    """Is this whole request one for the digest?"""
    return data.startswith(f"GET {DIGEST} HTTP/1.".encode()) and b"\r\n\r\n" in data[:REQUEST_MAX]


def with_body(body: bytes) -> bytes:
    """An answer that has one."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def refusal(status: str) -> bytes:
    """An answer without a body."""
    return _status(status.encode())


def answer(data: bytes) -> bytes | None:
    """What to answer to what has come so far; None: more has to come. It says nothing about the host."""
    if len(data) > REQUEST_MAX:
        return _status(b"431 Request Header Fields Too Large")
    head, end, _rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _status(b"400 Bad Request")
    if words[0] not in _METHODS:
        return _status(b"405 Method Not Allowed")
    return _status(b"200 OK") if words[1] == b"/hello" else _status(b"404 Not Found")


def _status(text: bytes) -> bytes:
    return b"HTTP/1.1 " + text + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def judge(data: bytes) -> str | None:
    """What an answer's beginning says: "" for good, words for bad, None while too little has come."""
    line, end, _rest = data.partition(b"\r\n")
    if not end:
        return None if len(data) <= REQUEST_MAX else "an answer that is not HTTP"
    words = line.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return "an answer that is not HTTP"
    return "" if words[1] == b"200" else f"HTTP status {words[1].decode('ascii', 'replace')}"
