# SPDX-License-Identifier: Apache-2.0
"""The CLI's side of the API."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from wardmesh.model.errors import WardmeshError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(socket_path: Path, method: str, path: str, timeout: float = 60) -> dict[str, Any]:
    """One request; raises WardmeshError with the agent's own error."""
    connection = _UnixConnection(socket_path, timeout)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise WardmeshError(
            "the agent does not answer",
            where=str(socket_path),
            why=str(error),
            remedy="systemctl status wardmesh; journalctl -u wardmesh",
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        parts = body.get("error", {})
        raise WardmeshError(
            parts.get("what", "request failed"),
            where=parts.get("where", ""),
            why=parts.get("why", ""),
            remedy=parts.get("remedy", ""),
        )
    return dict(body)


def running(socket_path: Path) -> bool:
    """Does an agent listen?"""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(socket_path))
    except OSError:
        return False
    return True
