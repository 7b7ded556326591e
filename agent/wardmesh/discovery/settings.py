# SPDX-License-Identifier: Apache-2.0
"""Which store, how to get in, what is taken from it: the keys etcd.* and discovery.* as typed values."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Network

_PORT = 2379
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LEAST_LEASE, _MOST_LEASE = 5.0, 86400.0


@dataclass(frozen=True)
class Server:
    """One server of a store; tls: https."""

    host: str
    port: int
    tls: bool

    @property
    def target(self) -> str:
        """HOST:PORT, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """lease, grace in seconds. ca, cert, key, password_file: paths, None where there is none."""

    servers: tuple[Server, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""
    username: str = ""
    password_file: Path | None = None
    lease: float = 60.0
    grace: float = 3600.0
    networks: tuple[Network, ...] = ()


def read_settings(values: Mapping[str, Any]) -> Settings | None:
    """From the values of config.yaml; None where no store is configured. WardmeshError names the key."""
    if not values["etcd.endpoints"]:
        return None
    servers = tuple(_server(text) for text in values["etcd.endpoints"])
    if len({server.tls for server in servers}) > 1:
        raise _wrong("etcd.endpoints", "some with TLS and some without")
    files = {name: _path(values, f"etcd.tls.{name}") for name in ("ca", "cert", "key")}
    if (files["cert"] is None) != (files["key"] is None):
        raise _wrong("etcd.tls", "cert and key go together")
    if not servers[0].tls and any(files.values()):
        raise _wrong("etcd.endpoints", "certificates are given, but the addresses do not begin with https://")
    password = _path(values, "etcd.passwordFile")
    if bool(values["etcd.username"]) != (password is not None):
        raise _wrong("etcd.username", "username and passwordFile go together")
    lease = seconds(values["etcd.lease"])
    if not _LEAST_LEASE <= lease <= _MOST_LEASE:
        raise _wrong("etcd.lease", f"outside of {_LEAST_LEASE:.0f}s..24h")
    return Settings(
        servers,
        files["ca"],
        files["cert"],
        files["key"],
        values["etcd.tls.serverName"] or "",
        values["etcd.username"] or "",
        password,
        lease,
        seconds(values["discovery.grace"]),
        tuple(_network(text) for text in values["discovery.networks"]),
    )


def _server(text: str) -> Server:
    if "@" in text:
        raise _wrong("etcd.endpoints", "an address holds a user; use etcd.username and etcd.passwordFile")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or _PORT
    except ValueError as error:
        raise _wrong("etcd.endpoints", f"{text!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query:
        raise _wrong("etcd.endpoints", f"{text!r} is not http(s)://HOST:PORT")
    return Server(host, port, parts.scheme == "https")


def _path(values: Mapping[str, Any], name: str) -> Path | None:
    text = values[name]
    if not text:
        return None
    if not text.startswith("/"):
        raise _wrong(name, f"{text!r} is no absolute path")
    return Path(text)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise _wrong("discovery.networks", f"{text!r} is no network ({error})") from error


def seconds(text: str) -> float:
    """A duration such as 90s or 1h30m, which the configuration has checked."""
    return sum(float(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)(ms|s|m|h)", text))


def _wrong(where: str, why: str) -> WardmeshError:
    return WardmeshError("invalid configuration", where=where, why=why, remedy="correct this key")


def serves_here(settings: Settings, addresses: frozenset[str]) -> bool:
    """Does one of the store's servers run on a host with these addresses, or on loopback?"""
    return any(
        server.host in addresses or server.host == "localhost" or _loopback(server.host)
        for server in settings.servers
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name
