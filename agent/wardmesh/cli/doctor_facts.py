# SPDX-License-Identifier: Apache-2.0
"""Reads the doctor's facts from this host. Each reader may fail alone; judging is wardmesh.health's."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from wardmesh import __version__
from wardmesh.api import client
from wardmesh.cli.doctor_answers import agent_of, attached_of, checks_of, listening_ports, units_of
from wardmesh.cli.fleet import installed_fleet
from wardmesh.cli.local import read_config
from wardmesh.cli.state import health_of
from wardmesh.datapath.contract import ARRAYS, DIRECTIONS, REASONS
from wardmesh.datapath.fw_contract import FLOW_TABLES
from wardmesh.datapath.open_pinned import firewall_folder, open_firewall, open_guard
from wardmesh.datapath.tc import Tc
from wardmesh.health import facts as f
from wardmesh.health.packet_filters import iptables_chain, nft_chains
from wardmesh.host.netlink import Netlink
from wardmesh.host.paths import Paths
from wardmesh.host.process import run
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard.devices import default_devices, guarded_devices, paths_to
from wardmesh.wireguard.links import read_links
from wardmesh.wireguard.mark import INTERFACE
from wardmesh.wireguard.routes import endpoint_address

ASK = 5.0  # seconds for the agent, and for each program that is asked
PATHS_MAX = 200  # peers whose way is looked up
UNITS = ("wardmesh.service", "wardmesh-boot.service", "wardmesh-observer.service")
_LRU = 9  # BPF_MAP_TYPE_LRU_HASH, linux/bpf.h

T = TypeVar("T")


def known(read: Callable[[], T]) -> f.Known[T]:
    """The fact, or why it could not be read."""
    try:
        return read()
    except WardmeshError as error:
        return f.Unread(": ".join(part for part in (error.where, error.what, error.why) if part))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f.Unread(f"{type(error).__name__}: {error}")


def gather(paths: Paths) -> f.Facts:
    """All facts."""
    system = _System(paths)
    agent, silence = _asked(known(system.agent))
    return f.Facts(
        version=__version__,
        silence=silence,
        settings=known(system.settings),
        agent=agent,
        trial=agent if isinstance(agent, f.Unread) else known(system.trial),
        kernel=known(system.kernel),
        devices=known(system.devices),
        attached=known(system.attached),
        udp_ports=known(lambda: system.ports("udp")),
        tcp_ports=known(lambda: system.ports("tcp")),
        filters=known(system.filters),
        paths=known(system.ways),
        reverse=known(system.reverse),
        clock=known(system.clock),
        maps=known(system.maps),
        counters=known(system.counters),
        documents=known(system.documents),
        key=known(system.key),
        disk=known(system.disk),
        units=known(system.units),
        installed=known(system.installed),
        checks=known(system.checks),
    )


def _asked(answer: f.Known[f.Agent]) -> tuple[f.Known[f.Agent], str]:
    """The agent's answer, and why there is none: one check tells it, the others only refer to it."""
    if isinstance(answer, f.Unread):
        return f.Unread("the agent does not answer"), answer.why
    return answer, ""


class _System:
    """The readers."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def checks(self) -> f.Checks | None:
        held = health_of(self._paths)
        return None if held is None else checks_of(held, encryption=self.settings().encryption)

    def settings(self) -> f.Settings:
        config = read_config(self._paths.config, needed=False)
        return f.Settings(
            config.encryption.enabled,
            config.encryption.listen_port,
            config.mtu or 0,
            config.firewall.enabled,
            config.metrics.enabled,
            config.metrics.port,
        )

    # --- the agent ---

    def agent(self) -> f.Agent:
        return agent_of(client.call(self._paths.socket, "GET", "/v1/status", timeout=ASK))

    def trial(self) -> f.Trial:
        found = client.call(self._paths.socket, "GET", "/v1/policy", timeout=ASK)
        return f.Trial(bool(found["pending"]), float(found["secondsLeft"]), str(found["lastTrial"]))

    # --- the kernel ---

    def kernel(self) -> f.Kernel:
        release = platform.release()
        modules = Path("/lib/modules") / release
        has_headers = (modules / "build/include").is_dir() or Path("/sys/kernel/kheaders.tar.xz").exists()
        has_headers = has_headers or any(
            (folder / "include/generated/autoconf.h").exists()
            for base in (Path("/usr/src"), Path("/usr/src/kernels"))
            if base.is_dir()
            for folder in base.iterdir()
        )
        return f.Kernel(
            release,
            _wireguard_of(modules),
            Path("/dev/net/tun").exists(),
            shutil.which("wireguard-go", path=search_path()) is not None,
            os.path.ismount("/sys/fs/bpf"),
            has_headers,
        )

    def devices(self) -> tuple[f.Device, ...]:
        configured = read_config(self._paths.config, needed=False).devices
        with Netlink() as link:
            links = read_links(link)
            guarded = {item.ifindex for item in guarded_devices(links, configured, default_devices(link))}
        return tuple(
            f.Device(item.name, item.up, item.mtu, item.kind, item.ifindex in guarded) for item in links
        )

    def attached(self) -> tuple[f.Attached, ...]:
        configured = read_config(self._paths.config, needed=False).devices
        with Netlink() as link:
            links = read_links(link)
            wanted = guarded_devices(links, configured, default_devices(link))
        wanted += [item for item in links if item.name == INTERFACE]
        found = []
        with Tc() as tc:
            qdiscs = tc.ingress_qdiscs()
            for item in wanted:
                by_way = {
                    way: tc.filters(item.ifindex, way) if item.ifindex in qdiscs else [] for way in DIRECTIONS
                }
                found.append(attached_of(item.name, by_way))
        return tuple(found)

    def ways(self) -> tuple[f.PathMtu, ...]:
        fleet = installed_fleet(self._paths)
        members = fleet.members[:PATHS_MAX] if fleet else ()
        by_address = {endpoint_address(member): member.name for member in members}
        with Netlink() as link:
            ways = paths_to(link, by_address)
        return tuple(
            f.PathMtu(by_address[address], way.device, way.mtu)
            for address, way in ways.items()
            if way is not None and way.device != "lo"
        )

    def ports(self, kind: str) -> frozenset[int]:
        found: set[int] = set()
        for name in (kind, f"{kind}6"):
            path = Path("/proc/net") / name
            if path.exists():
                found |= listening_ports(path.read_text(encoding="ascii"), listening=kind == "tcp")
        return frozenset(found)

    def filters(self) -> tuple[f.Chain, ...]:
        nft = shutil.which("nft", path=search_path())
        chains = nft_chains(run([nft, "-j", "list", "ruleset"], timeout=ASK).stdout) if nft else ()
        legacy = [
            iptables_chain(run([program, "-S"], timeout=ASK).stdout, f"{name} INPUT")
            for name in ("iptables", "ip6tables")
            for program in [_iptables(name, legacy_only=nft is not None)]
            if program
        ]
        if nft is None and not legacy:
            raise WardmeshError("neither nft nor iptables is installed", why="nothing could be read")
        return (*chains, *legacy)

    def reverse(self) -> f.Reverse:
        base = Path("/proc/sys/net/ipv4/conf")
        names = [entry.name for entry in base.iterdir()]
        return f.Reverse(
            {name: int((base / name / "rp_filter").read_text()) for name in names},
            {name: int((base / name / "src_valid_mark").read_text()) for name in names},
        )

    def clock(self) -> bool:
        argv = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        return run(argv, timeout=ASK).stdout.strip() == "yes"

    # --- maps ---

    def maps(self) -> tuple[f.MapFill, ...]:
        config = read_config(self._paths.config, needed=False)
        parts = [("guard", open_guard)]
        if firewall_folder(self._paths, config).is_dir():
            parts.append(("firewall", open_firewall))
        found = []
        for part, opening in parts:
            with opening(self._paths, config) as pinned:
                kinds = {name: spec.kind for name, spec in pinned.specs.items()}
                for name, held, room in pinned.sizes():
                    flows = name in FLOW_TABLES
                    if flows or kinds[name] not in ARRAYS:
                        fits = room // 2 if flows else room  # they are made to be filled by half
                        found.append(f.MapFill(f"{part}/{name}", held, fits, flows or kinds[name] == _LRU))
        return tuple(found)

    def counters(self) -> Mapping[str, int]:
        with open_guard(self._paths, read_config(self._paths.config, needed=False)) as pinned:
            found = pinned.counters(REASONS)
        return {f"{reason} {way}": count.packets for (reason, way), count in found.items()}

    # --- files ---

    def documents(self) -> tuple[f.Document, ...]:
        from wardmesh.daemon.inputs import read_policies
        from wardmesh.policy.files import parse_policies

        paths = self._paths
        readers: tuple[tuple[Path, Callable[[], object]], ...] = (
            (paths.config, lambda: read_config(paths.config, needed=False)),
            (paths.fleet, lambda: installed_fleet(paths)),
            (paths.policies, lambda: parse_policies(read_policies(paths.policies), str(paths.policies))),
        )
        return tuple(f.Document(str(path), _problem(read)) for path, read in readers if path.exists())

    def key(self) -> f.KeyFile:
        path = self._paths.key
        try:
            info, folder = path.lstat(), path.parent.lstat()
        except FileNotFoundError:
            return f.KeyFile(False)
        return f.KeyFile(True, stat.S_IMODE(info.st_mode), info.st_uid, stat.S_IMODE(folder.st_mode))

    def disk(self) -> f.Disk:
        place = next(path for path in (self._paths.state, *self._paths.state.parents) if path.exists())
        found = os.statvfs(place)
        # A file system that counts no inodes says 0 of 0.
        inodes = found.f_favail if found.f_files else 1 << 20
        return f.Disk(str(place), found.f_bavail * found.f_frsize, inodes)

    def installed(self) -> f.InstalledMap | None:
        import hashlib

        fleet = installed_fleet(self._paths)
        if fleet is None:
            return None
        digest = hashlib.sha256(self._paths.fleet.read_bytes()).hexdigest()
        age = max(0.0, time.time() - self._paths.fleet.stat().st_mtime)
        return f.InstalledMap(fleet.generation, digest, len(fleet.members), age)

    def units(self) -> tuple[f.Unit, ...]:
        argv = ["systemctl", "show", "--property=Id,LoadState,ActiveState,UnitFileState", *UNITS]
        return units_of(run(argv, timeout=ASK).stdout)


def _wireguard_of(modules: Path) -> str:
    if Path("/sys/module/wireguard").is_dir():
        return "loaded"
    for name in ("modules.builtin", "modules.dep"):
        path = modules / name
        if path.exists() and "/wireguard.ko" in path.read_text(encoding="utf-8", errors="replace"):
            return "available"
    return "missing"


def search_path() -> str:
    """The usual folders of system programs, which an operator's PATH may lack."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def _iptables(name: str, *, legacy_only: bool) -> str | None:
    """The program that reads rules that nft does not show: the old tables', where there are any."""
    tables = Path("/proc/net") / f"{name.removesuffix('tables')}_tables_names"
    if legacy_only and not (tables.exists() and "filter" in tables.read_text(encoding="ascii").split()):
        return None
    path = search_path()
    legacy = shutil.which(f"{name}-legacy", path=path) if legacy_only else None
    return legacy or shutil.which(name, path=path)


def _problem(read: Callable[[], object]) -> str:
    try:
        read()
    except WardmeshError as error:
        return str(error)
    return ""
