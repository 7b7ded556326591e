# SPDX-License-Identifier: Apache-2.0
"""The one engine: load, desired, diff, apply. A pass changes only what differs from the kernel."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from wardmesh.daemon import desired
from wardmesh.daemon.inputs import Inputs, load_inputs, load_or_last_good, remember
from wardmesh.daemon.state import ModeState, load_state, save_state
from wardmesh.datapath.contract import MARK
from wardmesh.datapath.guard import Guard
from wardmesh.host.paths import Paths
from wardmesh.host.sysctl import Sysctls
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap, Member, Network, check_succession
from wardmesh.wireguard import devices
from wardmesh.wireguard.backend import DeviceState, choose_backend
from wardmesh.wireguard.keys import load_private, public_of
from wardmesh.wireguard.liveness import Liveness
from wardmesh.wireguard.peers import desired_peers
from wardmesh.wireguard.routing import Routing, desired_rules
from wardmesh.wireguard.tunnel import Tunnel

IFNAME = "wardmesh_wg0"
SEAL_AFTER = 5.0  # seconds that a new member's tunnel must have been up before only the tunnel counts
LOG = logging.getLogger("wardmesh")


class Engine:
    """Holds what is in force; every public method is safe to call from the API's threads."""

    def __init__(self, paths: Paths, ipr: Any) -> None:
        self.paths = paths
        self.lock = threading.RLock()
        self._ipr = ipr
        self.inputs, self.problems = load_or_last_good(paths)
        self.state = load_state(paths.mode)
        self.liveness = Liveness()
        self.device = DeviceState("", 0, 0)
        self.guarded: list[str] = []
        self.paths_stale = True
        self.settled = False  # from the first whole pass on, a change is a repair
        self._paths: dict[str, desired.Path] = {}
        self._entries: dict[Network, tuple[int, int]] | None = None
        self._routing = Routing(ipr)
        self._sysctls = Sysctls(paths.sysctls)
        self.tunnel: Tunnel | None = None
        self._make_guard()

    def _make_guard(self) -> None:
        config = self.inputs.config
        self.guard = Guard(self.paths, config.encryption.listen_port, config.members_max)
        self._guard_loaded = False

    def own(self) -> tuple[FleetMap, Member] | None:
        """The map and this host's entry in it, found by its key; None while there is no mesh to build."""
        fleet = self.inputs.fleet
        if fleet is None or not self.inputs.config.encryption.enabled:
            return None
        key = public_of(load_private(self.paths.key))
        member = fleet.by_key(key)
        if member is None:
            raise WardmeshError(
                "this host is not in the fleet map",
                where=str(self.paths.fleet),
                why=f"no member has its key {key[:8]}…",
                remedy="run the playbook for this host, or uninstall.yml if it was removed",
            )
        return fleet, member

    def reconcile(self) -> list[str]:
        """One pass; returns what had to change, in words."""
        with self.lock:
            found = self.own()
            if found is None:
                return []
            fleet, own = found
            self._settle_mode(fleet)
            changes = self._guard_pass(fleet, own)
            changes += self._device_pass(fleet)
            changes += self._route_pass(fleet, own)
            self._watch_peers(fleet, own)
            remember(self.paths, self.inputs)
            for change in changes:
                LOG.info("%s: %s", "restored" if self.settled else "applied", change)
            self.settled = True
            return changes

    def _settle_mode(self, fleet: FleetMap) -> None:
        state = self.state.keep(frozenset(member.name for member in fleet.members))
        if self.inputs.config.encryption.mode == "prefer" and state.mode == "strict":
            state = ModeState()
        self._persist(state)

    def _persist(self, state: ModeState) -> None:
        if state != self.state:
            save_state(self.paths.mode, state)
            self.state = state

    def _guard_pass(self, fleet: FleetMap, own: Member) -> list[str]:
        changes: list[str] = []
        found = devices.guarded(devices.links(self._ipr), self.inputs.config.devices)
        self.guarded = [link.name for link in found]
        if not self._guard_loaded or not any(self.paths.bpffs.glob("prog-*")):
            report = self.guard.ensure_loaded()
            self._entries, self._guard_loaded = None, True
            changes.append(f"guard {'compiled and loaded' if report.compiled else 'found pinned'}")
        entries = desired.guard_entries(fleet, own, self.state)
        if entries != self._entries:
            changes += self.guard.set_members(entries)
            changes += self.guard.set_exceptions(
                (item.protocol, item.port) for item in self.inputs.config.encryption.exceptions
            )
            self._entries = entries
        changes += self.guard.attach([(link.ifindex, link.name, link.l2) for link in found])
        for link in found:
            if self._sysctls.ensure(f"net/ipv4/conf/{link.name}/src_valid_mark", "1"):
                changes.append(f"sysctl src_valid_mark of {link.name}")
        return changes

    def _device_pass(self, fleet: FleetMap) -> list[str]:
        config = self.inputs.config
        if self.tunnel is None:
            backend = choose_backend(config.encryption.backend)
            self.tunnel = Tunnel(backend, IFNAME, self.paths.key)
        if self.paths_stale:
            self._find_paths(fleet)
        changes = self.tunnel.reconcile_device(
            self._ipr, config.encryption.listen_port, desired.tunnel_mtu(self._paths, config.mtu)
        )
        own_key = public_of(load_private(self.paths.key))
        names = {member.key: member.name for member in fleet.members}
        changes += self.tunnel.reconcile_peers(desired_peers(fleet, own_key), names)
        if self._sysctls.ensure(f"net/ipv4/conf/{IFNAME}/rp_filter", "2"):
            changes.append("sysctl rp_filter of the tunnel")
        return changes

    def _find_paths(self, fleet: FleetMap) -> None:
        mtus = {link.ifindex: link.mtu for link in devices.links(self._ipr)}
        found = {}
        for member in fleet.members:
            sources = {}
            mtu = 0
            for version in (4, 6):
                address = desired.first_of(member, version)
                route = devices.route_to(self._ipr, address, MARK) if address else None
                if route:
                    sources[version] = route.source
                    mtu = mtu or mtus.get(route.ifindex, 0)
            if mtu and mtu < 60000:  # the loopback's MTU is no path's
                found[member.name] = desired.Path(mtu, sources)
        self._paths, self.paths_stale = found, False

    def _route_pass(self, fleet: FleetMap, own: Member) -> list[str]:
        if self.tunnel is None:
            return []
        mtu = desired.tunnel_mtu(self._paths, self.inputs.config.mtu)
        changes = self._routing.sync_rules(desired_rules(own.allowed_ips, self.guarded))
        wanted = desired.tunnel_routes(fleet, own, self.state, self.liveness.up, self._paths, mtu)
        return changes + self._routing.sync_routes(self.tunnel.index(self._ipr), wanted)

    def _watch_peers(self, fleet: FleetMap, own: Member) -> None:
        """Liveness, handshakes to provoke, and sealing of members whose tunnel has proved itself."""
        if self.tunnel is None:
            return
        now = time.time()
        self.device = self.tunnel.state()
        changed = self.liveness.observe(now, self.device.peers)
        due = self.liveness.to_provoke(now, self.device.peers)
        if due:
            self.tunnel.backend.provoke(IFNAME, [self.device.peers[key] for key in due])
        if self.state.mode == "strict":
            ready = {
                member.name
                for member in fleet.members
                if member.key != own.key and self.liveness.up_for(member.key, now) > SEAL_AFTER
            }
            if ready - self.state.sealed:
                self._persist(ModeState("strict", self.state.sealed | ready))
                LOG.info("sealed: %s", ", ".join(sorted(ready)))
                changed = True
        if changed:
            self._guard_pass(fleet, own)
            self._route_pass(fleet, own)

    def counters(self) -> dict[str, dict[str, int]]:
        """Packets and bytes by reason and direction; empty before the guard is loaded."""
        if not self._guard_loaded:
            return {}
        return {
            f"{reason} {direction}": {"packets": count.packets, "bytes": count.bytes}
            for (reason, direction), count in self.guard.counters_by_direction().items()
        }

    def unverified(self) -> list[str]:
        """Names of members whose tunnel is not up."""
        found = self.own()
        if found is None:
            return []
        fleet, own = found
        return [
            member.name
            for member in fleet.members
            if member.key != own.key and not self.liveness.up(member.key)
        ]

    def reload(self) -> list[str]:
        """Take in the files of /etc; on an error everything stays as it is."""
        with self.lock:
            new: Inputs = load_inputs(self.paths.config, self.paths.fleet)
            if new.fleet is None and self.inputs.fleet is not None:
                raise WardmeshError(
                    "the fleet map is gone", where=str(self.paths.fleet), remedy="run the playbook"
                )
            if new.fleet is not None:
                check_succession(self.inputs.fleet, new.fleet, str(self.paths.fleet))
            old = self.inputs
            self.inputs, self.settled, self.paths_stale = new, False, True
            if (new.config.members_max, new.config.encryption.listen_port) != (
                old.config.members_max,
                old.config.encryption.listen_port,
            ):
                self._make_guard()
            try:
                changes = self.reconcile()
            except WardmeshError:
                self.inputs, self.paths_stale = old, True
                self._make_guard()
                self.reconcile()
                raise
            self.problems = []
            return changes

    def set_mode(self, mode: str, *, everybody: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """The rollout's barrier: strict seals every verified member (everybody: all members)."""
        with self.lock:
            found = self.own()
            if found is None:
                raise WardmeshError(
                    "no fleet map yet", where=str(self.paths.fleet), remedy="run the playbook first"
                )
            fleet, own = found
            if mode == "strict" and self.inputs.config.encryption.mode == "prefer":
                raise WardmeshError(
                    "the configuration wishes prefer",
                    where=f"{self.paths.config}: encryption.mode",
                    remedy="set encryption.mode: strict and reload first",
                )
            others = {member.name for member in fleet.members if member.key != own.key}
            unverified = set(self.unverified())
            target = ModeState()
            if mode == "strict":
                target = ModeState(
                    "strict", self.state.sealed | (others if everybody else others - unverified)
                )
                if self.state.mode == "strict" and not everybody:
                    target = self.state  # members that came later are sealed by the agent itself
            changed = target != self.state
            if changed and not dry_run:
                self._persist(target)
                self.settled = False
                self.reconcile()
            return {
                "changed": changed,
                "mode": target.mode,
                "sealed": sorted(target.sealed),
                "unverified": sorted(unverified),
            }
