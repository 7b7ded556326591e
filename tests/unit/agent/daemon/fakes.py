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

from wardmesh.daemon.engine import Engine
from wardmesh.daemon.machine import Sight
from wardmesh.datapath.guard import LoadReport
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import canonical, digest_of
from wardmesh.wireguard.backend import DeviceState, PeerState
from wardmesh.wireguard.keys import public_of

PRIVATE = bytes([8]) + bytes(30) + bytes([64])
OWN_KEY = public_of(PRIVATE)
WALL = 1_700_000_000.0  # when a clock starts


def key_of(name: str) -> str:
    return base64.b64encode(name.encode().ljust(32, b"k")[:32]).decode()


def map_bytes(
    generation: int,
    names: tuple[str, ...],
    own: str = "node1",
    own_key: str = OWN_KEY,
    keys: dict[str, str] | None = None,
    following: dict[str, str] | None = None,
) -> bytes:
    """keys: public keys of others that are not key_of their name; following: next keys by name."""
    members = [
        {
            "name": name,
            "key": own_key if name == own else (keys or {}).get(name, key_of(name)),
            "addresses": [f"10.0.0.{int(name[4:])}", f"fd00::{int(name[4:]):x}"],
        }
        for name in sorted(names)
    ]
    for member in members:
        if following and member["name"] in following:
            member["nextKey"] = following[member["name"]]
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


class FakeStandIn:
    """On which devices it stands, and for what it is open. real: devices with all real filters."""

    def __init__(self, machine):
        self.machine, self.devices, self.doors, self.real = machine, set(), None, set()

    def standing(self):
        return frozenset(self.devices)

    def cover(self, devices, doors):
        self.machine.did("shut")
        fresh = {device[0] for device in devices} - self.devices
        self.devices |= fresh
        self.doors = doors
        return [f"stand-in: interface {index}: attached" for index in sorted(fresh)]

    def release(self, needs, *, loaded):
        gone = {i for i in self.devices if (i in self.real and needs[i] if i in needs else loaded)}
        self.devices -= gone
        return [f"stand-in: interface {index}: detached" for index in sorted(gone)]

    def close(self):
        pass


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
    elsewhere: dict = field(default_factory=dict)
    ports: tuple[int, int] = (0, 0)
    staged: tuple[bytes, ...] = ()

    def __post_init__(self):
        self.second = FakeSecond(self)
        self.shut = FakeStandIn(self)

    def did(self, what: str) -> None:
        self.calls.append(what)
        if what in self.broken:
            raise WardmeshError(self.broken[what])

    # machine
    def look(self, configured):
        return Sight(((2, "eth0", True),), (4, 6), (), 1420, self.second.present)

    def paths_to(self, addresses):
        return dict.fromkeys(addresses)

    def private_keys(self):
        return {public_of(private): private for private in (PRIVATE, *self.staged)}

    def promote(self, public):
        return False

    def guard(self, listen_port, members_max):
        return self

    def guard_is_pinned(self):
        return True

    def firewall(self, peers_max, rows_max, flows_max):
        return self.wall

    def firewall_is_pinned(self):
        return self.wall.loaded

    def stand_in(self):
        return self.shut

    def before_network(self, configured):
        return ((2, "eth0", True), (3, "eth1", True))

    def tunnel(self, preference):
        self.did("backend")
        return self

    def second_tunnel(self, preference):
        return self.second

    def second_sysctls(self):
        self.did("second sysctls")
        return []

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
        self.ports = (first, second)

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
        self.machine.elsewhere = dict(desired.elsewhere)
        return []


class FakeSecond:
    """The second tunnel's device: what the engine wants of it, and what it is told."""

    IFINDEX = 9

    def __init__(self, machine):
        self.machine, self.backend = machine, Backend()
        self.present, self.peers, self.desired, self.woken = False, {}, None, []
        self.state = DeviceState(0, "", 0, 0)

    def refresh(self):
        index = self.IFINDEX if self.present else 0
        key, port = (
            (public_of(self.desired.private_key), self.desired.listen_port) if self.desired else ("", 0)
        )
        self.state = DeviceState(index, key, port, 0x1E00, dict(self.peers))
        return self.state

    def reconcile(self, desired):
        self.machine.did("second peers" if desired.peers else "second device")
        self.present, self.desired = True, desired
        for key, peer in desired.peers.items():
            old = self.peers.get(key) or PeerState(key, peer.endpoint, peer.allowed_ips, 0, 0.0, 0, 0)
            self.peers[key] = replace(old, keepalive=peer.keepalive)
        self.peers = {key: peer for key, peer in self.peers.items() if key in desired.peers}
        self.refresh()
        return []

    def provoke(self, keys):
        self.woken += keys

    def teardown(self):
        self.machine.did("second gone")
        self.present, self.peers, self.desired = False, {}, None
        self.refresh()
        return []

    def handshake(self, key, when):
        self.peers[key] = replace(self.peers[key], last_handshake=when)

    def hears(self, key, count=32):
        self.peers[key] = replace(self.peers[key], rx_bytes=self.peers[key].rx_bytes + count)


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class StoreHost:
    """A member of two with a store, its engine started by hand. config: its configuration's text."""

    config = ""

    def __init__(self, root: Path) -> None:
        self.paths = make_host(root, map_bytes(1, ("node1", "node2")))
        self.paths.config.write_text(self.config)
        self.machine, self.clock = FakeMachine(), Clock()

    @property
    def wall(self) -> float:
        return WALL + self.clock.now - 1000.0

    def start(self) -> Engine:
        engine = Engine(self.paths, self.machine, clock=self.clock, wall=lambda: self.wall)
        engine.first_pass()
        return engine
