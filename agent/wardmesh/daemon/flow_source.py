# SPDX-License-Identifier: Apache-2.0
"""Where the observer's events come from: the rings of firewall and guard, read in the observer, in bulk."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wardmesh.api import client
from wardmesh.daemon.flow_ages import Ages
from wardmesh.daemon.flow_events import Sight
from wardmesh.daemon.flow_looks import Look
from wardmesh.daemon.guard_drops import GuardDrops
from wardmesh.daemon.raw_events import constant, length, words
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.event_ring import STRIDE, Told
from wardmesh.datapath.flow_table import flow_at
from wardmesh.datapath.fw_view import PinnedFirewall
from wardmesh.datapath.pins import Pins, inode_of
from wardmesh.host.files import read_bytes
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.identity import identities
from wardmesh.model.map_parser import parse_fleet_map

LOG = logging.getLogger("wardmesh")
BATCH = 1 << 15  # events of one look
DROPS = 1000  # events of one reason in a second and on one processor; more are counted
_STEP = 0.02  # seconds between two looks into the ring
_MANY, _LONGEST_STEP = 1024, 0.08  # where so many come, looks are as far apart as half of the ring allows
_HALF = fw.EVENTS_BYTES // STRIDE // 2  # events
_COUNT = 0.2  # seconds between two looks at the counters of what was lost
_REFRESH = 2.0  # seconds between two looks at policies, fleet and pins
_FRESH = 61.0  # seconds after which a flow that was not answered may be over (WM_TICKS_FRESH)


class KernelFlows:
    """A FlowSource. own_of: this host's name in a fleet map."""

    def __init__(self, paths: Paths, own_of: Callable[[FleetMap], str]) -> None:
        """WardmeshError where the firewall is not in the kernel."""
        self._paths, self._own_of = paths, own_of
        data = read_bytes(paths.config) or b""
        self._config = parse_config(data.decode("utf-8", "replace"), str(paths.config))
        self._open_maps()
        rooms = dict(zip((4, 6), (1 << bits for bits in fw.flow_bits(self._config.firewall.flows_max))))
        self._ages = Ages(rooms, self._flow_at, _FRESH)
        self._guard = GuardDrops(paths, self._config.members_max, DROPS)
        self._sight = Sight("", 0, time.time_ns() - time.monotonic_ns())
        self._known = (-1, 0)
        self._generation = 0
        self._looked = self._next = self._count_next = 0.0
        self._before = time.monotonic()
        self._earlier = self._lost = 0
        self._refresh()

    # --- FlowSource ---

    def poll(self, timeout: float) -> Sequence[Look]:
        """Events since the last call, oldest first; waits up to so many seconds for the first one.

        However much there is to tell, the ring is looked into by the clock: so a look is worth its while.
        """
        end = time.monotonic() + timeout
        while True:
            pause = min(self._next, end) - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            found = self._looks()
            if found or time.monotonic() >= end:
                return found

    def lost(self) -> int:
        """Events that found the ring full since the start, as it was a moment ago."""
        if time.monotonic() >= self._count_next:
            self._count_next = time.monotonic() + _COUNT
            self._lost = self._earlier + self._told.lost() + self._guard.lost()
        return self._lost

    def close(self) -> None:
        """Nothing is told any more."""
        self._told.silence()
        self._close_maps()
        self._guard.close()

    # --- reading ---

    def _looks(self) -> list[Look]:
        now = time.monotonic()
        if now - self._looked >= _REFRESH:
            self._refresh()
        told = self._told.take(BATCH)
        drops = self._guard.take(BATCH)
        count = length(told)
        self._next = now + _pause(count, now - self._before)
        self._before = now
        parts = [(data, self._ages.note(data, now), self._sight) for data in self._by_policy(told)]
        rest, begins = [drops], {}
        for data, begin in self._ages.over(now):
            begins[len(drops) // STRIDE + len(rest) - 1] = begin
            rest.append(data)
        others = b"".join(rest)
        if others:  # seldom; they belong between those that the firewall told
            self._know_devices(others)
            before, noted, _sight = parts.pop() if parts else (b"", {}, self._sight)
            noted.update((len(before) // STRIDE + place, begin) for place, begin in begins.items())
            parts.append((before + others, noted, self._sight))
        return [Look(data, sight, noted) for data, noted, sight in parts]

    def _by_policy(self, told: bytes) -> Iterator[bytes]:
        """Events by the policy set that judged them: its rules are known before its first flow is kept."""
        judged = words(told, "generation")
        if not told or constant(judged) == self._generation:
            before, after = told, b""
        else:
            numbers = judged.tolist()
            newer = next((n for n, number in enumerate(numbers) if number > self._generation), len(numbers))
            before, after = told[: newer * STRIDE], told[newer * STRIDE :]
        if before:
            self._know_devices(before)
            yield before
        if after:
            self._generation = max(words(after, "generation"))
            self._refresh()
            self._know_devices(after)
            yield after

    def _know_devices(self, data: bytes) -> None:
        """Names are looked for when a device is met; nobody knows them once it is gone."""
        met = words(data, "ifindex")
        only = constant(met)
        devices = self._sight.devices
        missing = ({only} if only is not None else set(met)) - devices.keys()
        found = _names_of(missing)
        if found:
            self._sight = replace(self._sight, devices={**devices, **found})

    def _flow_at(self, family: int, place: int, key: bytes) -> bytes | None:
        return flow_at(self._wall.maps[f"flows{family}"], family, place, key)

    # --- the kernel's maps ---

    def _folder(self) -> Path:
        wall = self._config.firewall
        contract = fw.contract_hash(self._config.members_max, wall.rows_max, wall.flows_max)
        return Pins(self._paths.bpffs / "firewall").maps(contract)

    def _open_maps(self) -> None:
        wall, folder = self._config.firewall, self._folder()
        specs = fw.map_specs(self._config.members_max, wall.rows_max, wall.flows_max)
        self._wall = PinnedFirewall(folder, specs, wall.rows_max)
        self._made = inode_of(folder)
        self._told = Told(self._wall, fw.EVENTS_BYTES, sample=sample_of(self._config), drops=DROPS)

    def _close_maps(self) -> None:
        self._told.close()
        self._wall.close()

    def _refresh(self) -> None:
        """Take in another policy set, another fleet map, and maps that the agent made anew."""
        self._looked = time.monotonic()
        self._guard.refresh()
        devices = _names_of(self._sight.devices)
        if devices != self._sight.devices:
            self._sight = replace(self._sight, devices=devices)
        if inode_of(self._folder()) != self._made:
            self._earlier += self._told.lost()
            self._close_maps()
            self._open_maps()
            self._generation = 0
        data = read_bytes(self._paths.fleet_in_force)
        policy = self._policy()
        seen = (int(policy.get("revision", 0)), hash(data))
        if data is None or seen == self._known:
            return
        fleet = parse_fleet_map(data, str(self._paths.fleet_in_force))
        own = self._own_of(fleet)
        self._sight = replace(
            self._sight,
            own=own,
            identity=identities(fleet).get(own, 0),
            rules=RuleBook(policy.get("files", {}), fleet, own),
            revision=seen[0],
        )
        self._known = seen

    def _policy(self) -> Mapping[str, Any]:
        if not client.listens(self._paths.socket):
            return {}
        try:
            return client.call(self._paths.socket, "GET", "/v1/policy")
        except WardmeshError as error:
            LOG.warning("flows are told without the names of rules: %s", error)
            return {}


def _pause(count: int, seconds: float) -> float:
    """Seconds until the next look, after one that brought the events of so many: each look has its price."""
    if count < _MANY:
        return _STEP
    return 0.0 if count >= BATCH else min(_LONGEST_STEP, _HALF * seconds / count)


def _names_of(devices: Iterable[int]) -> dict[int, str]:
    """Names by index, of those that are there."""
    found = {}
    for index in devices:
        try:
            found[index] = socket.if_indextoname(index)
        except OSError:
            continue  # gone meanwhile, or none at all
    return found


def sample_of(config: Config) -> int:
    """One in so many flows is told (monitor.sampling)."""
    return max(1, int(config.values.get("monitor.sampling") or 1))
