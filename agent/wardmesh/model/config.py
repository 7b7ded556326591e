# SPDX-License-Identifier: Apache-2.0
"""config.yaml: text to an immutable Config, or one error that lists every problem."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

import yaml

from wardmesh.model import schema
from wardmesh.model.errors import WardmeshError
from wardmesh.model.schema import BY_PATH, KEYS, PREFIXES, Key
from wardmesh.model.strict_yaml import check_plain, strict_mapping, yaml_errors

_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPV6": 58}
_DURATION = re.compile(r"^(\d+(ms|s|m|h))+$")
_DURATION_PART = re.compile(r"(\d+)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
HEALTH_PORT = 4240  # TCP, as upstream
_LEAST_ROTATION = 60.0  # seconds; a change of keys takes half of that
_HEALTH_INTERVALS = (1.0, 3600.0)
_SIZE_LIMIT = 1 << 20
_LEVELS = {"warn": "warning"}


@dataclass(frozen=True)
class Cluster:
    """Name and number (1..255) of a cluster."""

    name: str = "default"
    id: int = 1


@dataclass(frozen=True)
class PortException:
    """Traffic that strict mode lets pass in plain text; port 0 is every port of the protocol."""

    protocol: int
    port: int


@dataclass(frozen=True)
class Encryption:
    """What the operator wishes of encryption; the mode in force is state, not configuration.

    key_rotation: seconds after which a host with a store changes its key by itself, 0 is never.
    """

    enabled: bool = True
    type: str = "wireguard"
    node_encryption: bool = True
    mode: str = "strict"
    backend: str = "auto"
    listen_port: int = 51871
    exceptions: tuple[PortException, ...] = ()
    key_rotation: float = 0.0


@dataclass(frozen=True)
class HostFirewall:
    """Enforcement of policies; sizes in entries. failsafe: (protocol, port) that policy never forbids."""

    enabled: bool = False
    audit: bool = False
    rows_max: int = 4096
    flows_max: int = 131072
    failsafe_ingress: tuple[PortException, ...] = ()
    failsafe_egress: tuple[PortException, ...] = ()


@dataclass(frozen=True)
class MetricsConfig:
    """Where metrics are served, and to whom beside this host and the members.

    addresses: empty means this member's own; admit: further networks; peers_max: peers with own series;
    tls: HTTPS, but on loopback.
    """

    enabled: bool = False
    port: int = 9962
    addresses: tuple[_Address, ...] = ()
    admit: tuple[_Network, ...] = ()
    peers_max: int = 1000
    tls: bool = False


@dataclass(frozen=True)
class HealthConfig:
    """Checks of the peers; interval: seconds of a round."""

    enabled: bool = False
    interval: float = 10.0


@dataclass(frozen=True)
class Config:
    """The whole configuration, checked. inactive: given keys that this version does not act on."""

    cluster: Cluster = Cluster()
    encryption: Encryption = Encryption()
    firewall: HostFirewall = HostFirewall()
    metrics: MetricsConfig = MetricsConfig()
    health: HealthConfig = HealthConfig()
    devices: tuple[str, ...] = ()
    mtu: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    log_format: str = "text"
    log_level: str = "info"
    members_max: int = 65536
    inactive: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys and aliases: both hide what an operator meant."""


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, strict_mapping)


def load_yaml(text: str, source: str) -> Any:
    """One YAML document as plain Python values; errors carry file, line and column."""
    if len(text) > _SIZE_LIMIT:
        raise WardmeshError(
            "file too large",
            where=source,
            why=f"{len(text)} bytes, at most {_SIZE_LIMIT}",
            remedy="a configuration is a few kilobytes; check the path",
        )
    with yaml_errors(source):
        check_plain(text, source)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _nearest(path: str) -> str:
    near = difflib.get_close_matches(path, list(BY_PATH) + sorted(PREFIXES), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _flatten(node: Any, prefix: str, out: dict[str, Any], problems: list[str]) -> None:
    """Nested maps to dotted paths; stops at a key that the table knows."""
    if not isinstance(node, dict):
        problems.append(f"{prefix or 'document'}: expected a map, got {_name(node)}")
        return
    for raw, value in node.items():
        path = f"{prefix}.{raw}" if prefix else str(raw)
        if path == "encryption" and isinstance(value, str):
            out["encryption.type"] = value  # the flat spelling of the seeds
        elif path in BY_PATH:
            out[path] = value
        elif path in PREFIXES:
            _flatten({} if value is None else value, path, out, problems)
        else:
            problems.append(f"{path}: unknown key{_nearest(path)}")


def _name(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a map",
        type(None): "nothing",
    }
    return names.get(type(value), type(value).__name__)


def _boolean(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"  # ConfigMap style, as in the seeds
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {_name(value)}")
    return value


def _integer(key: Key, value: Any) -> int:
    if key.kind == schema.PORT and isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected an integer, got {_name(value)}")
    if not key.low <= value <= key.high:
        raise ValueError(f"{value} is outside {key.low}..{key.high}")
    return value


def _exceptions(value: Any) -> list[PortException]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {_name(value)}")
    found = []
    for index, item in enumerate(value):
        if not isinstance(item, dict) or set(item) - {"protocol", "port"} or "protocol" not in item:
            raise ValueError(f"item {index}: expected protocol and port")
        protocol = PROTOCOLS.get(str(item["protocol"]).upper())
        port = item.get("port", 0)
        if protocol is None:
            raise ValueError(
                f"item {index}: protocol {item['protocol']!r}, expected one of {', '.join(PROTOCOLS)}"
            )
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ValueError(f"item {index}: port {port!r} is outside 0..65535")
        found.append(PortException(protocol, port))
    return found


def _check(key: Key, value: Any) -> Any:
    """The value as its type, or ValueError with the problem."""
    if value is None:
        return key.default
    if key.kind == schema.BOOL:
        return _boolean(value)
    if key.kind in (schema.INT, schema.PORT):
        return _integer(key, value)
    if key.kind == schema.NUM:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"expected a number, got {_name(value)}")
        return float(value)
    if key.kind == schema.STRS:
        if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
            raise ValueError("expected a list of strings")
        return list(value)
    if key.kind == schema.DOCS:
        if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
            raise ValueError("expected a list of maps")
        return list(value)
    if key.kind == schema.MAP:
        if not isinstance(value, dict) or any(isinstance(item, (dict, list)) for item in value.values()):
            raise ValueError("expected a map of strings")
        return {str(name): "" if item is None else str(item) for name, item in value.items()}
    if key.kind == schema.EXCEPTIONS:
        return _exceptions(value)
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {_name(value)}")
    if key.kind == schema.DURATION and not _DURATION.match(value):
        raise ValueError(f"{value!r} is no duration such as 10s or 12h")
    if key.choices and value not in key.choices:
        raise ValueError(f"{value!r} is not one of {', '.join(key.choices)}")
    return value


def _failsafe(values: Mapping[str, Any], path: str) -> list[PortException]:
    """The table's default is written as a file would write it."""
    given = values[path]
    return _exceptions(given) if given and isinstance(given[0], dict) else list(given)


def _metrics(values: Mapping[str, Any], problems: list[str]) -> MetricsConfig:
    """Addresses and networks as such; what is none is a problem."""
    addresses, networks = [], []
    for text in values["prometheus.listenAddresses"]:
        try:
            addresses.append(ipaddress.ip_address(text))
        except ValueError:
            problems.append(f"prometheus.listenAddresses: {text!r} is no IP address")
    for text in values["prometheus.admit"]:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            problems.append(f"prometheus.admit: {text!r} is no network ({error})")
    return MetricsConfig(
        values["prometheus.enabled"],
        values["prometheus.port"],
        tuple(addresses),
        tuple(networks),
        values["prometheus.peersMax"],
        values["prometheus.tls"],
    )


def seconds_of(text: str) -> float:
    """A duration of the configuration, like 1m30s, in seconds."""
    return sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def _key_rotation(values: Mapping[str, Any], problems: list[str]) -> float:
    rotation = seconds_of(values["encryption.keyRotation"] or "0s")
    if 0 < rotation < _LEAST_ROTATION:
        problems.append(f"encryption.keyRotation: {rotation:g} s, at least {_LEAST_ROTATION:g} s")
    return rotation


def _health(values: Mapping[str, Any], problems: list[str]) -> HealthConfig:
    interval = seconds_of(values["healthChecking.interval"])
    low, high = _HEALTH_INTERVALS
    if not low <= interval <= high:
        problems.append(f"healthChecking.interval: {interval:g} s is outside {low:g} s to {high:g} s")
    return HealthConfig(values["healthChecking.enabled"], interval)


def _invalid(source: str, problems: list[str]) -> WardmeshError:
    return WardmeshError(
        "invalid configuration",
        where=source,
        why="; ".join(problems),
        remedy="correct these keys; nothing was changed",
    )


def parse_config(text: str, source: str) -> Config:
    """Parse and check; raises one WardmeshError whose `why` has a line per problem."""
    document = load_yaml(text, source)
    given: dict[str, Any] = {}
    problems: list[str] = []
    _flatten({} if document is None else document, "", given, problems)
    values = {key.path: key.default for key in KEYS}
    for path, value in given.items():
        try:
            values[path] = _check(BY_PATH[path], value)
        except ValueError as error:
            problems.append(f"{path}: {error}")
    metrics = _metrics(values, problems)
    health = _health(values, problems)
    rotation = _key_rotation(values, problems)
    if problems:
        raise _invalid(source, problems)
    inactive = {
        path for path in given if not BY_PATH[path].active and values[path] not in (None, False, [], {})
    }
    if values["encryption.type"] != "wireguard":
        inactive.add("encryption.type")  # traffic is still encrypted, by WireGuard: never plain by omission
    return Config(
        cluster=Cluster(values["cluster.name"], values["cluster.id"]),
        encryption=Encryption(
            values["encryption.enabled"],
            values["encryption.type"],
            values["encryption.nodeEncryption"],
            values["encryption.mode"],
            values["encryption.backend"],
            values["encryption.listenPort"],
            tuple(values["encryption.exceptions"]),
            rotation,
        ),
        firewall=HostFirewall(
            values["hostFirewall.enabled"],
            values["policyAuditMode"],
            values["bpf.policyRowsMax"],
            values["bpf.flowsMax"],
            tuple(_failsafe(values, "hostFirewall.failsafeIngress")),
            tuple(_failsafe(values, "hostFirewall.failsafeEgress")),
        ),
        metrics=metrics,
        health=health,
        devices=tuple(values["devices"]),
        mtu=values["mtu"],
        labels=values["labels"],
        log_format=values["log.format"],
        log_level="debug"
        if values["debug.enabled"]
        else _LEVELS.get(values["log.level"], values["log.level"]),
        members_max=values["bpf.membersMax"],
        inactive=tuple(sorted(inactive)),
        values=values,
    )
