# SPDX-License-Identifier: Apache-2.0
"""The hubble keys of the configuration, as the observer and the relay need them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wardmesh.model.config import Config
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.ring import check_capacity

API_PORT, RELAY_PORT, UI_PORT = 4244, 4245, 4246
_LAST_PORT = 65535


@dataclass(frozen=True)
class Tls:
    """PEM files; without client_ca, clients prove themselves by their address alone.

    rollout: the rollout made them. Loopback stays plain; a member's certificate counts while it is a member.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None
    rollout: bool = False


@dataclass(frozen=True)
class HostPort:
    """host "" is every address."""

    host: str
    port: int


@dataclass(frozen=True)
class Export:
    """A file of flows. max_bytes: where it is rotated; backups: rotated files that are kept."""

    path: Path
    max_bytes: int
    backups: int
    compress: bool
    field_mask: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Checked. listen None: only the socket. revoked: SHA-256 of certificates, in small digits."""

    enabled: bool
    capacity: int
    listen: HostPort | None
    relay: HostPort
    ui: HostPort
    tls: Tls | None
    export: Export | None
    revoked: frozenset[str] = frozenset()

    @property
    def api_port(self) -> int:
        """The port on which the members' API is expected."""
        return self.listen.port if self.listen else API_PORT


def read_settings(config: Config) -> Settings:
    """From the whole configuration; WardmeshError names the key."""
    values = config.values
    listen = values["hubble.listenAddress"]
    return Settings(
        values["hubble.enabled"],
        check_capacity(values["hubble.eventBufferCapacity"]),
        host_port(listen, "hubble.listenAddress", API_PORT) if listen else None,
        host_port(values["hubble.relay.listenAddress"], "hubble.relay.listenAddress", RELAY_PORT),
        host_port(values["hubble.ui.listenAddress"], "hubble.ui.listenAddress", UI_PORT),
        _tls(config),
        _export(config),
        _revoked(config.values["hubble.tls.revoked"]),
    )


def host_port(text: str, where: str, default: int) -> HostPort:
    """HOST:PORT, :PORT or HOST; IPv6 in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= _LAST_PORT or " " in host:
        raise WardmeshError(f"{text!r} is not HOST:PORT", where=where, remedy=f"write :{default}")
    return HostPort(host, int(port))


def _tls(config: Config) -> Tls | None:
    cert, key, client_ca = (
        config.values[f"hubble.tls.{name}"] for name in ("certFile", "keyFile", "clientCaFile")
    )
    if not cert and not key and not client_ca:
        return None
    if not cert or not key:
        raise WardmeshError(
            "TLS needs a certificate and its key",
            where="hubble.tls",
            remedy="set hubble.tls.certFile and hubble.tls.keyFile, or none of them",
        )
    return Tls(Path(cert), Path(key), Path(client_ca) if client_ca else None)


def _revoked(given: Iterable[str]) -> frozenset[str]:
    found = {text: text.replace(":", "").lower() for text in given}
    for text, bare in found.items():
        if not re.fullmatch("[0-9a-f]{64}", bare):
            raise WardmeshError(
                f"{text!r} is no SHA-256 fingerprint",
                where="hubble.tls.revoked",
                why="it has 64 hexadecimal digits, with or without colons",
                remedy="openssl x509 -in FILE -noout -fingerprint -sha256",
            )
    return frozenset(found.values())


def _export(config: Config) -> Export | None:
    values = config.values
    if not values["hubble.export.static.enabled"]:
        return None
    return Export(
        Path(values["hubble.export.static.filePath"]),
        values["hubble.export.fileMaxSizeMb"] << 20,
        values["hubble.export.fileMaxBackups"],
        values["hubble.export.fileCompress"],
        tuple(values["hubble.export.static.fieldMask"]),
        tuple(values["hubble.export.static.allowList"]),
        tuple(values["hubble.export.static.denyList"]),
    )
