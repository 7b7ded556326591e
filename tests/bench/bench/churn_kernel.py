# SPDX-License-Identifier: Apache-2.0
"""What runs inside the namespaces of churn.py: records written to the store, maps and device looked at."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

from wardmesh.datapath import bpfsys
from wardmesh.datapath.contract import IPCACHE_VALUE
from wardmesh.wireguard.backend import PeerChanges, PeerConfig
from wardmesh.wireguard.mark import INTERFACE
from wardmesh.wireguard.userspace import UserspaceBackend

_state: dict[str, Any] = {}
_AT_ONCE = 100  # records in one transaction; etcd takes 128


# --- beside the store ---


def answers(host: str, port: int) -> bool:
    """Does somebody listen?"""
    with socket.socket() as link:
        link.settimeout(1)
        return link.connect_ex((host, port)) == 0


def connect(host: str, port: int, cluster: str) -> None:
    """Open the connection by which the members that do not exist write their records."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from wardmesh.discovery.etcd import Etcd
    from wardmesh.discovery.settings import Server, Settings

    server = Server(host, port, False)
    _state.update(etcd=Etcd(Settings((server,)), server), cluster=cluster)


def address(number: int) -> str:
    """Of member number N."""
    return f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def _record(number: int, app: str) -> tuple[str, bytes]:
    from wardmesh.discovery.keys import node_key
    from wardmesh.discovery.members import node_of
    from wardmesh.discovery.records import write_node
    from wardmesh.model.config import Cluster
    from wardmesh.model.map_parser import parse_member

    key = base64.b64encode(hashlib.sha256(b"%d" % number).digest()).decode()
    item = {"name": f"h{number}", "key": key, "addresses": [address(number)], "labels": {"app": app}}
    member, cluster = parse_member(item, "bench"), Cluster(_state["cluster"], 7)
    value = write_node(node_of(member, cluster, {"app": app}))
    return node_key(cluster.name, member.name), value


def put(number: int, app: str) -> None:
    """One member joins, or changes its label."""
    _state["etcd"].keep(*_record(number, app))


def remove(number: int) -> None:
    """One member leaves."""
    _state["etcd"].remove(_record(number, "a0")[0])


def fill(first: int, last: int, groups: int) -> None:
    """Members first to last, quickly."""
    from wardmesh.discovery import etcd_api as api

    for start in range(first, last + 1, _AT_ONCE):
        records = [_record(n, f"a{n % groups}") for n in range(start, min(start + _AT_ONCE, last + 1))]
        puts = [{"put": {"key": key.encode(), "value": value}} for key, value in records]
        _state["etcd"].ask(api.TXN_CALL, {"success": puts})


def churn(first: int, seconds: float, rate: float) -> None:
    """So many changes a second: a label, somebody leaves, he comes back."""
    end, number = time.monotonic() + seconds, first
    while time.monotonic() < end:
        changes = (
            partial(put, number, f"a{number % 7}"),
            partial(remove, number + 100),
            partial(put, number + 100, "a3"),
        )
        for change in changes:  # nobody stays away
            change()
            time.sleep(1 / rate)
        number += 1


# --- beside the agent ---


def _map() -> int:
    """The guard's map of addresses, open; 0 while there is none."""
    found = next(iter(Path("/sys/fs/bpf/wardmesh").glob("maps-*/ipcache4")), None)
    if found is None:
        return 0
    if _state.get("inode") != found.stat().st_ino:
        _state.update(inode=found.stat().st_ino, map=bpfsys.obj_get(found))
    return int(_state["map"])


def identity(number: int) -> int:
    """The identity that the guard has for member number N, 0 while it has none."""
    opened = _map()
    value = (
        bpfsys.map_lookup(opened, socket.inet_aton(address(number)), IPCACHE_VALUE.size) if opened else None
    )
    return int(IPCACHE_VALUE.unpack(value)[0]) if value else 0


def admits(port: int) -> bool:
    """Does the firewall in the kernel let somebody in on this TCP port?"""
    from wardmesh.datapath.open_pinned import open_firewall
    from wardmesh.host.paths import Paths
    from wardmesh.model.config import Config

    with open_firewall(Paths(), Config()) as wall:
        return any(line.ports == f"{port}/TCP" and line.verdict == "Allow" for line in wall.policy())


def peers() -> int:
    """Peers of the device."""
    backend = UserspaceBackend()
    return len(backend.dump(INTERFACE).peers) if backend.exists(INTERFACE) else 0


def one_peer(passes: int = 5) -> float:
    """Seconds to add one peer to the device beside all the others, the median; it is taken away again."""
    import ipaddress

    backend, times = UserspaceBackend(), []
    for number in range(passes):
        key = base64.b64encode(hashlib.sha256(b"extra %d" % number).digest()).decode()
        allowed = frozenset({ipaddress.ip_network(f"10.250.0.{number}/32")})
        start = time.perf_counter()
        backend.apply(INTERFACE, PeerChanges(add=(PeerConfig(key, None, allowed),)))
        times.append(time.perf_counter() - start)
        backend.apply(INTERFACE, PeerChanges(remove=(key,)))
    return sorted(times)[passes // 2]
