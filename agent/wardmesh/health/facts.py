# SPDX-License-Identifier: Apache-2.0
"""What the doctor looks at, as typed values. Whatever could not be read is an Unread with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, Union

T = TypeVar("T")


@dataclass(frozen=True)
class Unread:
    """A fact that could not be read, and why."""

    why: str


Known = Union[T, Unread]


@dataclass(frozen=True)
class Peer:
    """A peer as the agent sees it. tunnel: up, down, pending; last_handshake in unix seconds, 0: never."""

    name: str
    tunnel: str
    endpoint: str
    sealed: bool
    last_handshake: float


@dataclass(frozen=True)
class Agent:
    """What the agent answers. now: its clock when it answered, in unix seconds."""

    version: str
    mode: str
    wish: str
    encryption: bool
    backend: str
    listen_port: int
    generation: int
    fleet_digest: str
    firewall: bool
    audit: bool
    policies: int
    devices: tuple[str, ...]
    peers: tuple[Peer, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    now: float


@dataclass(frozen=True)
class Trial:
    """Policies on trial; last: what the last trial came to, "" where there was none."""

    pending: bool
    seconds_left: float
    last: str


@dataclass(frozen=True)
class Kernel:
    """wireguard: loaded, available or missing; tun: /dev/net/tun; userspace: wireguard-go is installed."""

    release: str
    wireguard: str
    tun: bool
    userspace: bool
    bpffs: bool
    headers: bool


@dataclass(frozen=True)
class Device:
    """A device of the host. guarded: it carries the host's traffic, so the programs belong on it."""

    name: str
    up: bool
    mtu: int
    kind: str
    guarded: bool


@dataclass(frozen=True)
class Attached:
    """Our programs on a device, by direction; before: other filters that run first, in words."""

    device: str
    guard: tuple[bool, bool]
    firewall: tuple[bool, bool]
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilterRule:
    """A rule of the host's own packet filter, as far as it is understood.

    verdict: accept, drop, other; protocol: "" for any; ports: destination ranges, None for any; plain: False
    where the rule has conditions beyond protocol and port, which are not judged here.
    """

    verdict: str
    protocol: str
    ports: tuple[tuple[int, int], ...] | None
    plain: bool = True


@dataclass(frozen=True)
class Chain:
    """What the packet filter does with incoming packets: policy, and rules in order, jumps included."""

    name: str
    policy: str
    rules: tuple[FilterRule, ...]


@dataclass(frozen=True)
class MapFill:
    """Entries of a map; lru: more than fit do no harm at once, something makes way."""

    name: str
    entries: int
    capacity: int
    lru: bool


@dataclass(frozen=True)
class Reverse:
    """rp_filter and src_valid_mark by device, `all` among them; the kernel takes the larger rp_filter."""

    rp_filter: Mapping[str, int]
    src_valid_mark: Mapping[str, int]


@dataclass(frozen=True)
class Document:
    """A file that decides; problem: "" where it is valid."""

    path: str
    problem: str


@dataclass(frozen=True)
class KeyFile:
    """The private key's file, of which only owner and mode are looked at."""

    exists: bool
    mode: int = 0o600
    owner: int = 0
    folder_mode: int = 0o700


@dataclass(frozen=True)
class Disk:
    """Room for state: bytes and inodes that are free."""

    path: str
    free_bytes: int
    free_inodes: int


@dataclass(frozen=True)
class Unit:
    """A unit of systemd: ActiveState and UnitFileState."""

    name: str
    active: str
    enabled: str


@dataclass(frozen=True)
class InstalledMap:
    """The fleet map in /etc; age in seconds since it was written."""

    generation: int
    digest: str
    members: int
    age: float


@dataclass(frozen=True)
class Settings:
    """What the configuration says of ports and services."""

    encryption: bool = True
    listen_port: int = 51871
    mtu: int = 0
    firewall: bool = False
    metrics: bool = False
    metrics_port: int = 9962


@dataclass(frozen=True)
class Checks:
    """What wardmesh-health knows. unreachable: names; doubtful: (name, why) of peers that answer."""

    reachable: int
    unknown: int
    unreachable: tuple[str, ...]
    doubtful: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class PathMtu:
    """The way to a peer outside the tunnel; mtu in bytes."""

    peer: str
    device: str
    mtu: int


@dataclass(frozen=True)
class Facts:
    """Everything. version: of the program that asks; silence: why the agent does not answer, else ""."""

    version: str
    silence: Known[str]
    settings: Known[Settings]
    agent: Known[Agent]
    trial: Known[Trial]
    kernel: Known[Kernel]
    devices: Known[tuple[Device, ...]]
    attached: Known[tuple[Attached, ...]]
    udp_ports: Known[frozenset[int]]
    tcp_ports: Known[frozenset[int]]
    filters: Known[tuple[Chain, ...]]
    paths: Known[tuple[PathMtu, ...]]
    reverse: Known[Reverse]
    clock: Known[bool]
    maps: Known[tuple[MapFill, ...]]
    counters: Known[Mapping[str, int]]
    documents: Known[tuple[Document, ...]]
    key: Known[KeyFile]
    disk: Known[Disk]
    units: Known[tuple[Unit, ...]]
    installed: Known[InstalledMap | None]
    checks: Known[Checks | None] = None
