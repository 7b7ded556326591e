# SPDX-License-Identifier: Apache-2.0
"""The command line's side of the API."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
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


def call(
    socket_path: Path, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = 30
) -> dict[str, Any]:
    """One request; raises WardmeshError, with the agent's own error where it answered with one."""
    connection = _UnixConnection(socket_path, timeout)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except PermissionError as error:
        raise WardmeshError(
            "not allowed to ask the agent",
            where=str(socket_path),
            why=error.strerror or "",
            remedy="run as root, or as a member of the group wardmesh",
        ) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise WardmeshError(
            "the agent does not run",
            where=str(socket_path),
            why=error.strerror or "",
            remedy="systemctl start wardmesh; if it fails: journalctl -u wardmesh",
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise WardmeshError(
            "the agent does not answer",
            where=str(socket_path),
            why=str(error),
            remedy="journalctl -u wardmesh",
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        parts = document.get("error", {})
        raise WardmeshError(
            parts.get("what", f"status {answer.status}"),
            where=parts.get("where", ""),
            why=parts.get("why", ""),
            remedy=parts.get("remedy", ""),
        )
    return dict(document)


def listens(socket_path: Path) -> bool:
    """Does an agent listen there?"""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(socket_path))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:
        raise WardmeshError("cannot reach the agent", where=str(socket_path), why=str(error)) from error
    return True
