# SPDX-License-Identifier: Apache-2.0
"""Which store, how to get in, what is taken from it: the keys of etcd, consul and discovery, typed."""

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

ETCD, CONSUL = "etcd", "consul"
_PORTS = {ETCD: 2379, CONSUL: 8500}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LEAST_LEASE, _MOST_LEASE = {ETCD: 5.0, CONSUL: 10.0}, 86400.0  # Consul takes no shorter one


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
    """lease, grace in seconds. ca, cert, key, secret_file: paths, None where there is none; the secret is a
    password of etcd or a token of Consul."""

    servers: tuple[Server, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""
    username: str = ""
    secret_file: Path | None = None
    lease: float = 60.0
    grace: float = 3600.0
    networks: tuple[Network, ...] = ()
    kind: str = ETCD


def configured(values: Mapping[str, Any]) -> bool:
    """Is there a store?"""
    return bool(values["etcd.endpoints"] or values["consul.address"])


def read_settings(values: Mapping[str, Any]) -> Settings | None:
    """From the values of config.yaml; None where no store is configured. WardmeshError names the key."""
    if not configured(values):
        return None
    if values["etcd.endpoints"] and values["consul.address"]:
        raise _wrong("consul.address", "there is an etcd already; one store is enough")
    kind = ETCD if values["etcd.endpoints"] else CONSUL
    where = "etcd.endpoints" if kind == ETCD else "consul.address"
    addresses = values[where] if kind == ETCD else [values[where]]
    servers = tuple(_server(text, where, _PORTS[kind]) for text in addresses)
    if len({server.tls for server in servers}) > 1:
        raise _wrong(where, "some with TLS and some without")
    files = {name: _path(values, f"{kind}.tls.{name}") for name in ("ca", "cert", "key")}
    if (files["cert"] is None) != (files["key"] is None):
        raise _wrong(f"{kind}.tls", "cert and key go together")
    if not servers[0].tls and any(files.values()):
        raise _wrong(where, "certificates are given, but the addresses do not begin with https://")
    return Settings(
        servers,
        files["ca"],
        files["cert"],
        files["key"],
        values[f"{kind}.tls.serverName"] or "",
        *_user(values, kind),
        lease=_lease(values, kind),
        grace=seconds(values["discovery.grace"]),
        networks=tuple(_network(text) for text in values["discovery.networks"]),
        kind=kind,
    )


def _user(values: Mapping[str, Any], kind: str) -> tuple[str, Path | None]:
    if kind == CONSUL:
        return "", _path(values, "consul.tokenFile")
    secret = _path(values, "etcd.passwordFile")
    if bool(values["etcd.username"]) != (secret is not None):
        raise _wrong("etcd.username", "username and passwordFile go together")
    return values["etcd.username"] or "", secret


def _lease(values: Mapping[str, Any], kind: str) -> float:
    lease, least = seconds(values[f"{kind}.lease"]), _LEAST_LEASE[kind]
    if not least <= lease <= _MOST_LEASE:
        raise _wrong(f"{kind}.lease", f"outside of {least:.0f}s..24h")
    return lease


def _server(text: str, where: str, port: int) -> Server:
    if "@" in text:
        raise _wrong(where, "an address holds a user; give a name and a file instead")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or port
    except ValueError as error:
        raise _wrong(where, f"{text!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query:
        raise _wrong(where, f"{text!r} is not http(s)://HOST:PORT")
    return Server(host, port, parts.scheme == "https")


def _path(values: Mapping[str, Any], name: str) -> Path | None:
    text = values[name]
    if not text:
        return None
    if not text.startswith("/"):
        raise _wrong(name, f"{text!r} is no absolute path")
    return Path(text)


def read_secret(path: Path | None) -> bytes | None:
    """The content of a certificate, key or secret; WardmeshError names the file."""
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise WardmeshError(
            "cannot read a file of the store's",
            where=str(path),
            why=error.strerror or str(error),
            remedy="correct its path in the configuration",
        ) from error


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
