# SPDX-License-Identifier: Apache-2.0
"""In-memory stand-ins for guard, tunnel and routing.

They are fakes: they record what the engine asks in which order, and fail on request, which the kernel does
not do on demand. That the real ones do what they say is proved in tests/netns, tests/bpf and the lab.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from wardmesh.daemon.machine import Sight
from wardmesh.datapath.guard import LoadReport
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.wireguard.backend import DeviceState, PeerState
from wardmesh.wireguard.keys import public_of

PRIVATE = bytes([8]) + bytes(30) + bytes([64])
OWN_KEY = public_of(PRIVATE)


def key_of(name: str) -> str:
    return base64.b64encode(name.encode().ljust(32, b"k")[:32]).decode()


def map_bytes(generation: int, names: tuple[str, ...], own: str = "node1", own_key: str = OWN_KEY) -> bytes:
    members = [
        {
            "name": name,
            "key": own_key if name == own else key_of(name),
            "addresses": [f"10.0.0.{int(name[4:])}", f"fd00::{int(name[4:]):x}"],
        }
        for name in sorted(names)
    ]
    document = {
        "format": 1,
        "generation": generation,
        "cluster": {"name": "test", "id": 1},
        "members": members,
    }
    return canonical({**document, "digest": digest_of(document)}) + b"\n"


def make_host(root: Path, fleet: bytes | None) -> Paths:
    """A relocated host with key, configuration and perhaps a map."""
    paths = Paths(root)
    paths.key.parent.mkdir(parents=True, mode=0o700)
    paths.key.write_bytes(base64.b64encode(PRIVATE) + b"\n")
    paths.key.chmod(0o600)
    paths.key.with_suffix(".json").write_text(json.dumps({"generation": 1, "publicKey": OWN_KEY}))
    paths.etc.mkdir(parents=True)
    paths.config.write_text("cluster: {name: test, id: 1}\n")
    if fleet is not None:
        paths.fleet.write_bytes(fleet)
    return paths


class Backend:
    name = "fake"


class FakeFirewall:
    """Remembers what it was told."""

    def __init__(self):
        self.loaded, self.policies, self.audit, self.failsafe, self.devices = False, [], False, set(), ()
        self.broken = None

    def ensure_loaded(self):
        self.loaded = True
        return True

    def close(self):
        pass

    def set_ports(self, first, second=0):
        self.ports = (first, second)

    def set_failsafe(self, wanted, members=()):
        self.failsafe, self.failsafe_members = set(wanted), set(members)

    def set_audit(self, audit):
        self.audit = audit

    def set_policy(self, tables):
        if self.broken:
            raise self.broken
        self.policies.append(tables)
        return len(self.policies)

    def attach(self, devices):
        fresh = [name for _index, name, _l2 in devices if name not in {d[1] for d in self.devices}]
        self.devices = tuple(devices)
        return [f"firewall: {name} attached" for name in fresh]

    def teardown(self):
        self.loaded, self.devices = False, ()
        return ["firewall: removed"]

    def counters(self):
        return {}


@dataclass
class FakeMachine:
    """The host. calls: what was asked, in order; broken: names of calls that fail, with their texts."""

    calls: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    entries: dict = field(default_factory=dict)
    routes: dict = field(default_factory=dict)
    peers: dict[str, PeerState] = field(default_factory=dict)
    undone: list[str] = field(default_factory=list)  # lines of the next tunnel pass: somebody broke something
    woken: list[str] = field(default_factory=list)
    state: DeviceState = field(default_factory=lambda: DeviceState(7, OWN_KEY, 51871, 0x1E00))
    backend: Backend = field(default_factory=Backend)
    wall: FakeFirewall = field(default_factory=FakeFirewall)

    def did(self, what: str) -> None:
        self.calls.append(what)
        if what in self.broken:
            raise WardmeshError(self.broken[what])

    # machine
    def look(self, configured):
        return Sight(((2, "eth0", True),), (4, 6), (), 1420)

    def paths_to(self, addresses):
        return dict.fromkeys(addresses)

    def private_key(self):
        return PRIVATE

    def guard(self, listen_port, members_max):
        return self

    def guard_is_pinned(self):
        return True

    def firewall(self, peers_max, rows_max, flows_max):
        return self.wall

    def firewall_is_pinned(self):
        return self.wall.loaded

    def tunnel(self, preference):
        self.did("backend")
        return self

    def routing(self):
        return FakeRouting(self)

    def sysctls(self, names):
        self.did("sysctls")
        return []

    def teardown(self):
        self.did("teardown")
        self.entries, self.routes = {}, {}
        return ["everything removed"]

    # guard
    def ensure_loaded(self):
        self.did("load")
        return LoadReport(True, 0.1)

    def close(self):
        self.did("close")

    def set_listen_ports(self, first, second=0):
        return None

    def set_members(self, members):
        self.did("members")
        self.entries = dict(members)
        return []

    def set_exceptions(self, exceptions):
        list(exceptions)
        return []

    def attach(self, devices):
        self.did("attach")
        return []

    def problems(self, devices):
        return []

    def counters_by_direction(self):
        return {}

    # tunnel
    def refresh(self):
        self.state = replace(self.state, peers=dict(self.peers))
        return self.state

    def reconcile(self, desired):
        self.did("tunnel")
        for key, peer in desired.peers.items():
            self.peers.setdefault(key, PeerState(key, peer.endpoint, peer.allowed_ips, 0, 0.0, 0, 0))
        self.peers = {key: peer for key, peer in self.peers.items() if key in desired.peers}
        self.refresh()
        lines, self.undone = self.undone, []
        return lines

    def provoke(self, keys):
        self.woken += keys

    def handshake(self, name: str, when: float) -> None:
        key = key_of(name)
        self.peers[key] = replace(self.peers[key], last_handshake=when)


@dataclass
class FakeRouting:
    machine: FakeMachine

    def reconcile(self, desired):
        self.machine.did("routes")
        self.machine.routes = dict(desired.routes)
        return []


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
