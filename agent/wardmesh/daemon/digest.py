# SPDX-License-Identifier: Apache-2.0
"""What this host enforces, read from the kernel and from what is pinned, against what its files say.

The agent's memory gives nothing but the digests of the files that it took over. The rest is read anew each
time, by the agent for others, and by `wardmesh fleet digest` without it. Reading changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wardmesh import __version__
from wardmesh.daemon import desired, facts
from wardmesh.daemon.desired import Mesh
from wardmesh.daemon.firewall_tables import host_tables
from wardmesh.daemon.firewalling import failsafe_of
from wardmesh.daemon.inputs import Inputs, has_last_good, load_last_good, load_or_last_good
from wardmesh.daemon.own_keys import own_public_keys
from wardmesh.daemon.stages import Memo
from wardmesh.daemon.state import STRICT, ModeState, load_state
from wardmesh.datapath.attachment import Device
from wardmesh.datapath.fw_held import Settings, policy_facts, read_held
from wardmesh.datapath.open_pinned import firewall_folder, open_firewall, open_guard
from wardmesh.datapath.running import PREFIXES, pinned_names, program_facts, wanted_programs
from wardmesh.health.drift import Facts, Part, Report, compare, unread
from wardmesh.host.files import stamp
from wardmesh.host.netlink import Netlink
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard import devices
from wardmesh.wireguard.backend import Backend, DeviceState
from wardmesh.wireguard.kernel import KernelBackend
from wardmesh.wireguard.keys import noted_generation
from wardmesh.wireguard.links import Link, read_links
from wardmesh.wireguard.mark import INTERFACE
from wardmesh.wireguard.routes import addresses_to_look_up, desired_routes, desired_rules
from wardmesh.wireguard.routing import read_routes, read_rules
from wardmesh.wireguard.userspace import UserspaceBackend


@dataclass(frozen=True)
class InForce:
    """What an agent took over. digests: SHA-256 of its own file and of those that it acts on, by name;
    running: it answers now."""

    digests: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    running: bool = False


def without_agent(paths: Paths) -> InForce:
    """The same from the last good copies, where no agent answers."""
    try:
        held = load_last_good(paths) if has_last_good(paths) else None
    except WardmeshError:
        held = None
    if held is None:
        return InForce()
    return InForce(held.digests(), held.fleet.generation if held.fleet else 0)


@dataclass(frozen=True)
class _Sight:
    """Devices of this host at one moment."""

    links: tuple[Link, ...]
    guarded: tuple[Device, ...]
    tunnel: Link | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(device[1] for device in self.guarded)

    @property
    def behind_the_firewall(self) -> tuple[Device, ...]:
        own = self.tunnel
        return (*self.guarded, *(((own.ifindex, own.name, False),) if own else ()))


class Digester:
    """Makes reports. It keeps what follows from the files alone until one of them changes."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._memo = Memo()
        self._backends: tuple[Backend, ...] = (KernelBackend(), UserspaceBackend())

    def report(self, force: InForce, program: str) -> Report:
        """Everything. program: SHA-256 of the agent's file as it is installed now, "" where it runs from a
        folder. WardmeshError where this host has no good files at all."""
        inputs, refused = self._inputs()
        files = _Files(self._paths, inputs, force)
        parts = [files.agent(program), files.config(refused), files.map(), files.policies()]
        mesh = inputs.mesh
        if mesh is not None:
            parts += _Kernel(self._paths, inputs, mesh, self._backends, self._memo).parts()
        return Report(mesh.own.name if mesh else "", tuple(parts))

    def _inputs(self) -> tuple[Inputs, WardmeshError | None]:
        paths = self._paths
        # Everything that is read: what is rolled out, what stores said, this host's keys and their notes.
        folders = (paths.policies, paths.clusters, paths.key.parent, paths.last_good)
        watched = (
            paths.config,
            paths.fleet,
            paths.discovered,
            *(file for at in folders for file in at.glob("*")),
        )
        key = tuple(sorted((str(path), stamp(path) or (0, 0)) for path in watched))
        return self._memo.get("inputs", key, lambda: load_or_last_good(paths))


class _Files:
    """Parts that are files."""

    def __init__(self, paths: Paths, inputs: Inputs, force: InForce) -> None:
        self._paths, self._inputs, self._force = paths, inputs, force
        self._wanted = inputs.digests()

    def agent(self, program: str) -> Part:
        digest = self._force.digests.get("agent", "")
        enforced = {"state": "running" if self._force.running else "not running"}
        values = {"version": __version__, "digest": program}
        if self._force.running:
            enforced["file"] = digest
            values["digest"] = digest
        else:
            enforced["file"] = program
        return compare("agent", enforced, {"state": "running", "file": program}, values)

    def config(self, refused: WardmeshError | None) -> Part:
        part = self._file("config", {})
        if refused is None:
            return part
        return Part(part.name, part.enforced, part.wanted, part.values, (*part.differences, str(refused)))

    def map(self) -> Part:
        fleet = self._inputs.rolled_out
        generation = {"generation": str(fleet.generation if fleet else 0)}
        return self._file("fleet", generation, "map", {"generation": str(self._force.generation)})

    def policies(self) -> Part:
        return self._file("policies", {})

    def _file(self, name: str, wanted: Facts, part: str = "", enforced: Facts | None = None) -> Part:
        have = {**(enforced or {}), "digest": self._force.digests.get(name, "none")}
        return compare(part or name, have, {**wanted, "digest": self._wanted[name]}, have)


class _Kernel:
    """Parts that lie in the kernel, of a host that is a member."""

    def __init__(
        self, paths: Paths, inputs: Inputs, mesh: Mesh, backends: Iterable[Backend], memo: Memo
    ) -> None:
        self._paths, self._inputs, self._mesh, self._memo = paths, inputs, mesh, memo
        self._config = inputs.config
        self._backends = tuple(backends)
        self._remembered = self._mode()
        self._state = self._remembered.within(mesh.sealable, inputs.config.encryption.mode)
        self._sight = self._look()
        self._device: DeviceState | None = None
        self._device_problem = ""

    def _mode(self) -> ModeState:
        try:
            return load_state(self._paths.mode)
        except WardmeshError:  # as the agent does: everybody is sealed
            return ModeState(STRICT, self._mesh.sealable)

    def _look(self) -> _Sight:
        with Netlink() as link:
            links = read_links(link)
            guarded = devices.guarded_devices(links, self._config.devices, devices.default_devices(link))
        tunnel = next((item for item in links if item.name == INTERFACE), None)
        return _Sight(tuple(links), tuple((item.ifindex, item.name, item.l2) for item in guarded), tunnel)

    def parts(self) -> list[Part]:
        """All of them, each by itself."""
        self._read_device()
        return [self.mode(), self.keys(), self.device(), self.peers(), *map(self._guarded, self._others())]

    def _others(self) -> list[tuple[str, Callable[[], tuple[Facts, Facts]]]]:
        return [
            ("guard", self.guard),
            ("firewall", self.firewall),
            ("programs", self.programs),
            ("routes", self.routes),
        ]

    @staticmethod
    def _guarded(item: tuple[str, Callable[[], tuple[Facts, Facts]]]) -> Part:
        name, read = item
        try:
            enforced, wanted = read()
        except (OSError, WardmeshError) as error:
            return unread(name, {}, str(error))
        return compare(name, enforced, wanted)

    # --- WireGuard ---

    def _read_device(self) -> None:
        try:
            backend = next((item for item in self._backends if item.exists(INTERFACE)), None)
            self._device = backend.dump(INTERFACE) if backend is not None else None
        except (OSError, WardmeshError) as error:
            self._device_problem = str(error)

    def _of_device(self, name: str, enforced: Facts, wanted: Facts, values: Facts | None = None) -> Part:
        if self._device_problem:
            return unread(name, wanted, self._device_problem)
        return compare(name, enforced, wanted, values)

    def mode(self) -> Part:
        wanted = {"mode": self._config.encryption.mode}
        return compare("mode", {"mode": self._state.mode}, wanted, {"mode": self._state.mode})

    def keys(self) -> Part:
        wanted = {"public key": self._mesh.own.key, "noted key": self._mesh.own.key}
        noted = own_public_keys(self._paths)  # while a rotation ends, the map may have the next one already
        known = self._mesh.own.key if self._mesh.own.key in noted else ", ".join(noted) or "none"
        used = self._device.public_key if self._device else "none"
        generation = {"generation": str(noted_generation(self._paths))}
        return self._of_device("keys", {"public key": used, "noted key": known}, wanted, generation)

    def device(self) -> Part:
        up = self._sight.tunnel is not None and self._sight.tunnel.up
        wanted = facts.wanted_device(self._config.encryption.listen_port)
        return self._of_device("device", facts.found_device(self._device, up=up), wanted)

    def peers(self) -> Part:
        names, held = self._mesh.names, self._device.peers if self._device else {}
        wanted = self._memo.get(
            "peers", self._mesh, lambda: facts.peer_facts(self._mesh.peers.values(), names)
        )
        return self._of_device("peers", facts.peer_facts(held.values(), names), wanted)

    # --- eBPF ---

    def guard(self) -> tuple[Facts, Facts]:
        key = (self._mesh, self._state, self._config.encryption)
        wanted = self._memo.get("guard", key, self._wanted_guard)
        with open_guard(self._paths, self._config) as guard:
            return facts.found_entries(guard), wanted

    def _wanted_guard(self) -> Facts:
        encryption = self._config.encryption
        return facts.entry_facts(
            desired.guard_entries(self._mesh, self._state),
            facts.exceptions_of(encryption.exceptions),
            encryption.listen_port,
        )

    def firewall(self) -> tuple[Facts, Facts]:
        folder = firewall_folder(self._paths, self._config)
        if not self._config.firewall.enabled:
            return ({"firewall": "there"} if folder.is_dir() else {}), {}
        wanted = self._memo.get("policy", self._inputs, self._wanted_policy)
        with open_firewall(self._paths, self._config) as wall:
            return policy_facts(*read_held(wall, self._config.firewall.rows_max)), wanted

    def _wanted_policy(self) -> Facts:
        everybody, members, mesh = *failsafe_of(self._config), self._mesh
        tables = host_tables(self._inputs.policies, mesh.fleet, mesh.own.name, mesh.numbers)
        port = self._config.encryption.listen_port
        settings = Settings(self._config.firewall.audit, port, frozenset(everybody), frozenset(members))
        return policy_facts(tables, settings)

    def programs(self) -> tuple[Facts, Facts]:
        sides = [("guard", self._paths.bpffs, self._sight.guarded)]
        if self._config.firewall.enabled:
            sides.append(("firewall", self._paths.bpffs / "firewall", self._sight.behind_the_firewall))
        enforced: dict[str, str] = {}
        wanted: dict[str, str] = {}
        for what, folder, carriers in sides:
            enforced.update(program_facts(carriers, what, self._names(what, folder)))
            wanted.update(wanted_programs(carriers, what))
        return enforced, wanted

    def _names(self, what: str, folder: Path) -> frozenset[str]:
        opened = (open_guard if what == "guard" else open_firewall)(self._paths, self._config)
        with opened as maps:
            return pinned_names(folder, maps.maps.values(), PREFIXES[what])

    # --- routing ---

    def routes(self) -> tuple[Facts, Facts]:
        families = (4, 6) if Path("/proc/net/if_inet6").exists() else (4,)
        with Netlink() as link:
            rows, rules = read_routes(link), read_rules(link)
            # A member that is not sealed has its routes while its tunnel is up: both is right.
            there = {route.network for route, _ifindex, _right in rows}
            chosen = [
                member
                for member in self._mesh.others
                if self._state.seals(member.name) or not there.isdisjoint(member.networks())
            ]
            ways = devices.paths_to(link, addresses_to_look_up(chosen))
        enforced = facts.found_routes(rows, {item.ifindex: item.name for item in self._sight.links})
        mtu = self._sight.tunnel.mtu if self._sight.tunnel else 0
        wanted = facts.route_facts(desired_routes(chosen, self._mesh.own, ways, mtu, families).values())
        expected = desired_rules(self._mesh.own.allowed_ips, self._sight.names, families)
        return (
            {**enforced, **facts.rule_facts(rules)},
            {**wanted, **facts.rule_facts((rule, True) for rule in expected)},
        )
