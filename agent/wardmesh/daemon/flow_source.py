# SPDX-License-Identifier: Apache-2.0
"""Where the observer's events come from: the firewall's ring and table of flows, read in the observer."""

from __future__ import annotations

import heapq
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wardmesh.api import client
from wardmesh.daemon.flow_events import OPEN_MAX, Raw, Translator
from wardmesh.daemon.guard_drops import GuardDrops
from wardmesh.daemon.rule_book import RuleBook
from wardmesh.datapath import event_contract as ev
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.event_ring import Told
from wardmesh.datapath.flow_table import FlowTable
from wardmesh.datapath.fw_view import PinnedFirewall
from wardmesh.datapath.pins import Pins, inode_of
from wardmesh.datapath.ticks import seconds_until
from wardmesh.host.files import read_bytes
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config, parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import FleetMap
from wardmesh.model.identity import identities
from wardmesh.model.map_parser import parse_fleet_map
from wardmesh.observe.flow import Direction, FlowEvent

LOG = logging.getLogger("wardmesh")
BATCH = 8192  # events of one poll
DROPS = 1000  # events of one reason in a second and on one processor; more are counted
_STEP = 0.02  # seconds between two looks into the ring
_REFRESH = 2.0  # seconds between two looks at policies, fleet and pins
_FRESH = 61.0  # seconds after which a flow that was not answered may be over (WM_TICKS_FRESH)


class KernelFlows:
    """A FlowSource. own_of: this host's name in a fleet map."""

    def __init__(self, paths: Paths, own_of: Callable[[FleetMap], str]) -> None:
        """WardmeshError where the firewall is not in the kernel."""
        self._paths, self._own_of = paths, own_of
        data = read_bytes(paths.config) or b""
        self._config = parse_config(data.decode("utf-8", "replace"), str(paths.config))
        self._names: dict[int, str] = {}
        self._due: list[tuple[float, int, int]] = []  # (when to look, family, place) of open flows
        self._open_maps()
        self._guard = GuardDrops(paths, self._config.members_max, DROPS)
        self._translator = Translator("", 0, self._name_of, time.time_ns() - time.monotonic_ns())
        self._known = (-1, 0)
        self._generation = 0
        self._looked = 0.0
        self._earlier = 0
        self._refresh()

    # --- FlowSource ---

    def poll(self, timeout: float) -> Sequence[FlowEvent]:
        """Events since the last call, oldest first; waits up to so many seconds for the first one."""
        end = time.monotonic() + timeout
        if time.monotonic() - self._looked >= _REFRESH:
            self._refresh()
        found = self._read()
        while not found and time.monotonic() < end:
            time.sleep(_STEP)
            found = self._read()
        return found

    def lost(self) -> int:
        """Events that found the ring full since the start."""
        return self._earlier + self._told.lost() + self._guard.lost()

    def close(self) -> None:
        """Nothing is told any more."""
        self._told.silence()
        self._close_maps()
        self._guard.close()

    # --- reading ---

    def _read(self) -> list[FlowEvent]:
        found = []
        now = time.monotonic()
        for raw in self._raws():
            if raw.generation > self._generation:  # a new policy set: its rules before its first flow
                self._generation = raw.generation
                self._refresh()
            found.append(self._translator.event(raw))
            if raw.kind == ev.EVENT_NEW and len(self._due) < OPEN_MAX:
                heapq.heappush(self._due, (now + _FRESH, raw.family, raw.place))
        while self._due and self._due[0][0] <= now:
            _when, family, place = heapq.heappop(self._due)
            ended = self._look_at(family, place)
            if ended is not None:
                found.append(ended)
        return found

    def _raws(self) -> list[Raw]:
        """From both rings; the guard's is nearly always empty."""
        raws = [Raw._make(ev.EVENT.unpack(data)) for data in self._told.read(BATCH)]
        drops = [Raw._make(ev.EVENT.unpack(data)) for data in self._guard.read(BATCH)]
        return sorted(raws + drops, key=lambda raw: raw.time) if drops else raws

    def _look_at(self, family: int, place: int) -> FlowEvent | None:
        """Is an open flow over? Its counters are those of its slot, as long as it is still its own."""
        known = self._translator.open.get((family, place))
        if known is None:
            return None
        table = self._tables[known.event.source.version]
        flow = table.flow_at(place, _key(known.event))
        if flow is None:  # another has taken the slot
            return self._translator.ended((family, place), time.monotonic_ns(), None)
        fields = fw.FLOW.unpack(flow)
        left = seconds_until(fields[10])
        if left < 0:
            counters = (fields[6], fields[7], fields[4], fields[5])
            return self._translator.ended((family, place), time.monotonic_ns(), counters)
        heapq.heappush(self._due, (time.monotonic() + left + 1, family, place))
        return None

    def _name_of(self, ifindex: int) -> str:
        if ifindex not in self._names:
            try:
                self._names[ifindex] = socket.if_indextoname(ifindex)
            except OSError:
                return ""  # gone meanwhile
        return self._names[ifindex]

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
        sizes = dict(zip((4, 6), fw.flow_sets(wall.flows_max)))
        self._tables = {
            family: FlowTable(self._wall.maps[f"flows{family}"], family, sizes[family]) for family in (4, 6)
        }

    def _close_maps(self) -> None:
        self._told.close()
        for table in self._tables.values():
            table.close()
        self._wall.close()

    def _refresh(self) -> None:
        """Take in another policy set, another fleet map, and maps that the agent made anew."""
        self._looked = time.monotonic()
        self._names.clear()
        self._guard.refresh()
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
        translator = self._translator
        translator.set_names(own, identities(fleet).get(own, 0))
        translator.rules = RuleBook(policy.get("files", {}), fleet, own)
        translator.revision = seen[0]
        self._known = seen

    def _policy(self) -> Mapping[str, Any]:
        if not client.listens(self._paths.socket):
            return {}
        try:
            return client.call(self._paths.socket, "GET", "/v1/policy")
        except WardmeshError as error:
            LOG.warning("flows are told without the names of rules: %s", error)
            return {}


def _key(first: FlowEvent) -> bytes:
    """The key of the flow that this packet opened, as it lies in a slot."""
    there, back = (first.source, first.source_port), (first.destination, first.destination_port)
    remote, local = (there, back) if first.direction is Direction.INGRESS else (back, there)
    layout = fw.FLOW4_KEY if first.source.version == 4 else fw.FLOW6_KEY
    ports = remote[1].to_bytes(2, "big"), local[1].to_bytes(2, "big")
    return layout.pack(remote[0].packed, local[0].packed, *ports, first.protocol)


def sample_of(config: Config) -> int:
    """One in so many flows is told (monitor.sampling)."""
    return max(1, int(config.values.get("monitor.sampling") or 1))
