# SPDX-License-Identifier: Apache-2.0
"""The files of TLS for gRPC: whoever connects meets the newest good ones, and open streams go on."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wardmesh.host.files import Stamp, check_private, stamp
from wardmesh.host.paths import Paths
from wardmesh.model.certificates import check_pair, read_certificates
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.needs import need
from wardmesh.observe.settings import Tls

LOG = logging.getLogger("wardmesh")
Stamps = tuple[Stamp, ...]


def rollout_tls(paths: Paths) -> Tls | None:
    """What the rollout has brought to this host; None unless all of it is there."""
    found = Tls(paths.hubble_cert, paths.hubble_key, paths.fleet_ca, rollout=True)
    return found if all(path.exists() for path in files_of(found)) else None


def files_of(tls: Tls | None) -> tuple[Path, ...]:
    """The files of these settings."""
    return tuple(path for path in (tls.cert, tls.key, tls.client_ca) if path) if tls else ()


def stamps_of(tls: Tls | None) -> Stamps:
    """Changes when a file does."""
    return tuple(map(stamp, files_of(tls)))


def why_unusable(tls: Tls | None) -> str:
    """What is wrong with the files of the rollout; those of the configuration stop the start instead."""
    if tls is None or not tls.rollout:
        return ""
    try:
        Reloading(tls)
    except WardmeshError as error:
        return str(error)
    return ""


def read_pem(path: Path) -> bytes:
    """A certificate or key; WardmeshError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise WardmeshError(
            "cannot read a file of TLS",
            where=str(path),
            why=error.strerror or str(error),
            remedy="correct hubble.tls in the configuration",
        ) from error


class Reloading:
    """A server's certificate, key and client CA."""

    def __init__(self, tls: Tls) -> None:
        """WardmeshError where a file is missing or wrong."""
        self._tls = tls
        self._lock = threading.Lock()
        self._seen = stamps_of(tls)
        self._first = self._read()

    def _read(self) -> Any:
        tls = self._tls
        chain, key = read_pem(tls.cert), read_pem(tls.key)
        if tls.rollout:
            check_private(tls.key)
        check_pair(chain, key, str(tls.cert))
        bundle = read_pem(tls.client_ca) if tls.client_ca else None
        if bundle is not None:
            read_certificates(bundle, str(tls.client_ca))
        return need("grpc").ssl_server_certificate_configuration([(key, chain)], root_certificates=bundle)

    def newest(self) -> Any:
        """gRPC asks at every handshake; None: nothing has changed, or what has is no good."""
        with self._lock:
            stamps = stamps_of(self._tls)
            if stamps == self._seen:
                return None
            self._seen = stamps
            try:
                return self._read()
            except WardmeshError as error:
                LOG.error("hubble: the certificate before stays in use: %s", error)
                return None

    def credentials(self) -> Any:
        """What gRPC listens with; a client CA makes certificates of clients a must."""
        required = self._tls.client_ca is not None
        return need("grpc").dynamic_ssl_server_credentials(self._first, self.newest, required)


class SocketTls:
    """TLS for a server of plain sockets: the newest good files, looked at with every connection.

    Clients need no certificate. While there are no files, connections are closed: never plain text instead.
    """

    def __init__(self, find: Callable[[], Tls | None]) -> None:
        """find: the files that are to be used now."""
        self._find = find
        self._lock = threading.Lock()
        self._seen: Stamps = ()
        self._context: ssl.SSLContext | None = None

    def __call__(self, link: socket.socket) -> ssl.SSLSocket:
        """The connection after its handshake; OSError where there is none."""
        return self._newest().wrap_socket(link, server_side=True)

    def _newest(self) -> ssl.SSLContext:
        with self._lock:
            tls = self._find()
            stamps = stamps_of(tls)
            if tls is not None and stamps != self._seen:
                self._seen = stamps
                made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                made.minimum_version = ssl.TLSVersion.TLSv1_2
                try:
                    if tls.rollout:
                        check_private(tls.key)
                    made.load_cert_chain(tls.cert, tls.key)
                    self._context = made
                except (OSError, WardmeshError) as error:
                    LOG.error("metrics: the certificate before stays in use: %s: %s", tls.cert, error)
            if self._context is None or tls is None:
                raise OSError("no certificate for TLS")
            return self._context
