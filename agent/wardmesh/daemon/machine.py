# SPDX-License-Identifier: Apache-2.0
"""The host as the engine sees it. Tests put their own in its place; HostMachine is the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Protocol

from wardmesh.daemon.desired import Paths as PathTable
from wardmesh.datapath.attachment import Device
from wardmesh.datapath.closed_door import Doors
from wardmesh.datapath.firewall import Firewall
from wardmesh.datapath.fw_tables import PolicyTables
from wardmesh.datapath.guard import Counter, Guard, LoadReport
from wardmesh.datapath.members import Entries
from wardmesh.datapath.stand_in import StandIn
from wardmesh.host.netlink import Netlink
from wardmesh.host.paths import Paths
from wardmesh.host.sysctl import Sysctls
from wardmesh.model.fleetmap import Address
from wardmesh.wireguard import devices
from wardmesh.wireguard.backend import DeviceState, choose_backend
from wardmesh.wireguard.keys import private_keys, promote, publish
from wardmesh.wireguard.links import read_links
from wardmesh.wireguard.mark import OWN_PREFIX, SECOND_INTERFACE
from wardmesh.wireguard.routes import RoutingDesired
from wardmesh.wireguard.routing import Routing
from wardmesh.wireguard.sysctls import reconcile_sysctls
from wardmesh.wireguard.tunnel import Tunnel, TunnelDesired


@dataclass(frozen=True)
class Sight:
    """What a pass needs to know of the host.

    Guarded devices, IP versions that the kernel has, missing configured devices, the MTU of the tunnel device
    (0 where there is none), and whether there is a second one.
    """

    devices: tuple[Device, ...]
    families: tuple[int, ...]
    missing: tuple[str, ...]
    tunnel_mtu: int
    second: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the guarded devices."""
        return tuple(device[1] for device in self.devices)


class GuardLike(Protocol):
    """See datapath/guard.py."""

    def ensure_loaded(self) -> LoadReport: ...

    def close(self) -> None: ...

    def set_listen_ports(self, first: int, second: int = 0) -> None: ...

    def set_members(self, members: Entries) -> list[str]: ...

    def set_exceptions(self, exceptions: Iterable[tuple[int, int]]) -> list[str]: ...

    def attach(self, devices: Iterable[Device]) -> list[str]: ...

    def problems(self, devices: Iterable[Device]) -> list[str]: ...

    def counters_by_direction(self) -> dict[tuple[str, str], Counter]: ...


class FirewallLike(Protocol):
    """See datapath/firewall.py."""

    def ensure_loaded(self) -> bool: ...

    def close(self) -> None: ...

    def set_ports(self, first: int, second: int = 0) -> None: ...

    def set_failsafe(
        self, wanted: Iterable[tuple[int, int, int]], members: Iterable[tuple[int, int, int]] = ()
    ) -> None: ...

    def set_audit(self, audit: bool) -> None: ...

    def set_policy(self, tables: PolicyTables) -> int: ...

    def attach(self, devices: Iterable[Device]) -> list[str]: ...

    def teardown(self) -> list[str]: ...

    def counters(self) -> dict[tuple[str, str], Counter]: ...


class StandInLike(Protocol):
    """See datapath/stand_in.py."""

    def standing(self) -> frozenset[int]: ...

    def cover(self, devices: Iterable[Device], doors: Doors) -> list[str]: ...

    def release(self, needs: Mapping[int, Iterable[str]], *, loaded: bool) -> list[str]: ...

    def close(self) -> None: ...


class BackendLike(Protocol):
    """The name of what runs the tunnel."""

    name: str


class TunnelLike(Protocol):
    """See wireguard/tunnel.py."""

    @property
    def backend(self) -> BackendLike: ...

    @property
    def state(self) -> DeviceState: ...

    def refresh(self) -> DeviceState: ...

    def reconcile(self, desired: TunnelDesired) -> list[str]: ...

    def provoke(self, keys: Iterable[str]) -> None: ...

    def teardown(self) -> list[str]: ...


class RoutingLike(Protocol):
    """See wireguard/routing.py."""

    def reconcile(self, desired: RoutingDesired) -> list[str]: ...


class Machine(Protocol):
    """Everything that the engine asks of the host."""

    def look(self, configured: Sequence[str]) -> Sight: ...

    def paths_to(self, addresses: Iterable[Address]) -> PathTable: ...

    def private_keys(self) -> Mapping[str, bytes]: ...

    def promote(self, public: str) -> bool: ...

    def guard(self, listen_port: int, members_max: int) -> GuardLike: ...

    def guard_is_pinned(self) -> bool: ...

    def firewall(self, peers_max: int, rows_max: int, flows_max: int) -> FirewallLike: ...

    def firewall_is_pinned(self) -> bool: ...

    def stand_in(self) -> StandInLike: ...

    def tunnel(self, preference: str) -> TunnelLike: ...

    def second_tunnel(self, preference: str) -> TunnelLike: ...

    def routing(self) -> RoutingLike: ...

    def sysctls(self, names: Sequence[str]) -> list[str]: ...

    def second_sysctls(self) -> list[str]: ...

    def teardown(self) -> list[str]: ...


class BootMachine(Machine, Protocol):
    """What the boot asks beside it."""

    def before_network(self, configured: Sequence[str]) -> tuple[Device, ...]: ...


class HostMachine:
    """The real one. teardown: removes everything from the kernel (see daemon/cleanup.py)."""

    def __init__(self, paths: Paths, teardown: Callable[[Paths], list[str]]) -> None:
        self._paths = paths
        self._teardown = teardown

    def look(self, configured: Sequence[str]) -> Sight:
        """Read devices and addresses."""
        with Netlink() as link:
            links = read_links(link)
            devices.require_devices(links, configured)
            found = devices.guarded_devices(links, configured, devices.default_devices(link))
        tunnel = [item.mtu for item in links if item.name.startswith(OWN_PREFIX)]
        return Sight(
            tuple((item.ifindex, item.name, item.l2) for item in found),
            (4, 6) if FilePath("/proc/net/if_inet6").exists() else (4,),
            tuple(devices.missing_devices(links, configured)),
            tunnel[0] if tunnel else 0,
            any(item.name == SECOND_INTERFACE for item in links),
        )

    def before_network(self, configured: Sequence[str]) -> tuple[Device, ...]:
        """The devices to guard while nobody has an address yet: all but loopback and our own."""
        with Netlink() as link:
            links = read_links(link)
        return tuple(
            (item.ifindex, item.name, item.l2)
            for item in links
            if not item.loopback
            and not item.name.startswith(OWN_PREFIX)
            and (not configured or item.name in configured)
        )

    def paths_to(self, addresses: Iterable[Address]) -> PathTable:
        """How the host reaches these outside the tunnel."""
        with Netlink() as link:
            return devices.paths_to(link, addresses)

    def private_keys(self) -> Mapping[str, bytes]:
        """By public key; read anew each time, so that wrong permissions are noticed."""
        return private_keys(self._paths)

    def promote(self, public: str) -> bool:
        """Let the staged key with this public key take the old one's place; publish which ones there are."""
        done = promote(self._paths, public)
        publish(self._paths)
        return done

    def guard(self, listen_port: int, members_max: int) -> Guard:
        """The eBPF programs and maps."""
        return Guard(self._paths, listen_port, members_max)

    def guard_is_pinned(self) -> bool:
        """Did nobody remove the pins? A restarted agent would have to compile again."""
        return any(self._paths.bpffs.glob("prog-*")) and any(self._paths.bpffs.glob("maps-*"))

    def firewall(self, peers_max: int, rows_max: int, flows_max: int) -> Firewall:
        """The policy's programs and maps."""
        return Firewall(self._paths, peers_max, rows_max, flows_max)

    def firewall_is_pinned(self) -> bool:
        """Are its pins there?"""
        folder = self._paths.bpffs / "firewall"
        return any(folder.glob("prog-*")) and any(folder.glob("maps-*"))

    def stand_in(self) -> StandIn:
        """What closes devices while guard or firewall cannot be loaded."""
        return StandIn(self._paths)

    def tunnel(self, preference: str) -> Tunnel:
        """The WireGuard device, by the backend that this host has."""
        return Tunnel(choose_backend(preference))

    def second_tunnel(self, preference: str) -> Tunnel:
        """The device beside it while keys rotate."""
        return Tunnel(choose_backend(preference), SECOND_INTERFACE)

    def routing(self) -> Routing:
        """Rules and routes."""
        return Routing()

    def sysctls(self, names: Sequence[str]) -> list[str]:
        """rp_filter and its companions for these guarded devices."""
        return reconcile_sysctls(Sysctls(self._paths.sysctls), names)

    def second_sysctls(self) -> list[str]:
        """Those of the second tunnel's device."""
        return reconcile_sysctls(Sysctls(self._paths.sysctls), (), SECOND_INTERFACE)

    def teardown(self) -> list[str]:
        """Remove everything of ours from the kernel."""
        return self._teardown(self._paths)
