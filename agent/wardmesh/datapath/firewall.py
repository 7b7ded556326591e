# SPDX-License-Identifier: Apache-2.0
"""The firewall on this host: bpf/firewall.c with its maps. Order of use: ensure_loaded, set_…, attach."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from wardmesh.datapath import bpfsys
from wardmesh.datapath import fw_contract as fw
from wardmesh.datapath.attachment import Attachment, Device
from wardmesh.datapath.contract import (
    DIRECTIONS,
    EGRESS,
    INGRESS,
    METRIC,
    ROW,
    Network,
    ipcache_slot,
    metric_row,
)
from wardmesh.datapath.fw_tables import PolicyTables, Step, plan
from wardmesh.datapath.guard import Counter, possible_cpus
from wardmesh.datapath.pins import Pins
from wardmesh.datapath.programs import Programs
from wardmesh.datapath.tc import FIREWALL_PREFIX
from wardmesh.datapath.ticks import ticks_per_second
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError

Entries = dict[Network, "tuple[int, int]"]


def _table_flags(flows_max: int) -> tuple[str, ...]:
    bits4, bits6 = fw.flow_bits(flows_max)
    return f"-DWM_FLOW_BITS4={bits4}", f"-DWM_FLOW_BITS6={bits6}"


def _clock_flags() -> tuple[str, ...]:
    per_second, shift = ticks_per_second()
    return f"-DWM_HZ={per_second}", f"-DWM_TICK_SHIFT={shift}"


class Firewall:
    """Programs and maps. peers_max: addresses; rows_max: groups of peers; flows_max: answered IPv4 flows."""

    def __init__(
        self, paths: Paths, peers_max: int, rows_max: int, flows_max: int, python: str = "/usr/bin/python3"
    ) -> None:
        self._peers_max = peers_max
        self._rows_max = rows_max
        self._pins = Pins(paths.bpffs / "firewall")
        self._parent = Pins(paths.bpffs)
        self._loaded = Programs(
            self._pins,
            "firewall.c",
            fw.contract_hash(peers_max, rows_max, flows_max),
            fw.map_specs(peers_max, rows_max, flows_max),
            fw.PROGRAMS,
            {"state": fw.STATE.pack(0, 0, secrets.randbits(64), 0)},
            python,
            paths,
            (f"-DWM_FW_ROWS={rows_max}", *_table_flags(flows_max), *_clock_flags()),
        )

    def ensure_loaded(self) -> bool:
        """Open or make maps and programs; whether something was compiled."""
        self._parent.prepare()
        return self._loaded.ensure_loaded()

    def close(self) -> None:
        """Close all descriptors; pins and attached programs stay."""
        self._loaded.close()

    def _map(self, name: str) -> int:
        if not self._loaded.maps:
            raise WardmeshError("the firewall is not loaded", remedy="ensure_loaded comes first")
        return self._loaded.maps[name]

    # --- policy ---

    @property
    def generation(self) -> int:
        """Of the policy in force; 0: none was ever set."""
        return self._state()[0]

    def _state(self) -> tuple[int, int, int, int]:
        row = bpfsys.map_lookup(self._map("state"), ROW.pack(0), fw.STATE.size) or bytes(fw.STATE.size)
        generation, flags, seed, failsafe = fw.STATE.unpack(row)
        return int(generation), int(flags), int(seed), int(failsafe)

    def _write_state(self, generation: int, flags: int, failsafe: int | None = None) -> None:
        before = self._state()
        wanted = (generation, flags, before[2], before[3] if failsafe is None else failsafe)
        if wanted != before:
            bpfsys.map_update(self._map("state"), ROW.pack(0), fw.STATE.pack(*wanted))

    def set_policy(self, tables: PolicyTables) -> int:
        """Put a policy set in force, at once for every packet; the new generation.

        WardmeshError when it does not fit; the set in force stays.
        """
        if len(tables.peers) > self._peers_max:
            raise WardmeshError(
                f"policies and fleet name {len(tables.peers)} networks, the firewall holds {self._peers_max}",
                where="bpf.membersMax",
                remedy="raise bpf.membersMax, or let rules name fewer networks",
            )
        generation, flags, _seed, _failsafe = self._state()
        step = plan(self._peers(), tables, self._rows_max)
        half, other = (generation + 1) & 1, generation & 1
        self._copy_rows(step, other)
        self._write_state(generation, flags | _net_flags(step.before))
        self._write_peers(step.before, gone=())
        self._write_rows(step, half)
        for place, table in enumerate(tables.classes):
            self._write_classes(half, INGRESS + place // fw.CLASS_TABLES, place % fw.CLASS_TABLES, table)
        self._forget_judged(half)
        kept = flags & fw.STATE_AUDIT
        enforce = fw.STATE_ENFORCE if tables.enforced else 0
        fresh = (generation + 1) & 0xFFFFFFFF or 2  # 0 means that there never was one
        self._write_state(fresh, kept | enforce | _net_flags(step.before))
        self._write_peers(step.after, gone=set(step.before) - set(step.after))
        self._write_state(fresh, kept | enforce | _net_flags(step.after))
        return fresh

    def set_audit(self, audit: bool) -> None:
        """Host-wide audit mode: record what would be dropped, drop nothing."""
        generation, flags, _seed, _failsafe = self._state()
        self._write_state(generation, flags & ~fw.STATE_AUDIT | (fw.STATE_AUDIT if audit else 0))

    def _peers(self) -> Entries:
        return fw.read_peers(lambda name: bpfsys.map_items(self._map(name), fw.PEER_KEYS[name], fw.PEER.size))

    def _write_peers(self, entries: Mapping[Network, tuple[int, int]], gone: Iterable[Network]) -> None:
        fresh: dict[str, dict[bytes, bytes]] = {name: {} for name in fw.PEER_MAPS.values()}
        for network, (identity, row) in entries.items():
            slot, key = ipcache_slot(network)
            fresh[fw.PEER_MAPS[slot]][key] = fw.PEER.pack(identity, row)
        for name, items in fresh.items():
            bpfsys.map_update_many(self._map(name), items)
        for network in gone:
            slot, key = ipcache_slot(network)
            bpfsys.map_delete(self._map(fw.PEER_MAPS[slot]), key)

    def _copy_rows(self, step: Step, half: int) -> None:
        """Rows that are new get, in the half in force, what the rows that they come from hold there."""
        fresh: dict[bytes, bytes] = {}
        for row, source in step.copies.items():
            for direction in (INGRESS, EGRESS):
                key = ROW.pack(fw.row_slot(half, direction, source, self._rows_max))
                held = bpfsys.map_lookup(self._map("rows"), key, fw.ROW_BYTES) or bytes(fw.ROW_BYTES)
                fresh[ROW.pack(fw.row_slot(half, direction, row, self._rows_max))] = held
        bpfsys.map_update_many(self._map("rows"), fresh)

    def _write_rows(self, step: Step, half: int) -> None:
        fresh = {
            ROW.pack(fw.row_slot(half, direction, row, self._rows_max)): cells[direction - INGRESS]
            for row, cells in step.rows.items()
            for direction in (INGRESS, EGRESS)
        }
        bpfsys.map_update_many(self._map("rows"), fresh)

    def _write_classes(self, half: int, direction: int, which: int, table: bytes) -> None:
        slot = fw.class_slot(half, direction, which)
        pieces = {
            ROW.pack(slot + piece): table[piece * fw.PIECE_BYTES : (piece + 1) * fw.PIECE_BYTES]
            for piece in range(fw.CLASS_PIECES)
        }
        bpfsys.map_update_many(self._map("classes"), pieces)

    # --- settings ---

    def set_ports(self, first: int, second: int = 0) -> None:
        """WireGuard's listen ports: what comes for them is the tunnel's."""
        row = fw.PORTS_ROW.pack(first.to_bytes(2, "big"), second.to_bytes(2, "big"), 0)
        bpfsys.map_update(self._map("ports"), ROW.pack(0), row)

    def set_failsafe(
        self, wanted: Iterable[tuple[int, int, int]], members: Iterable[tuple[int, int, int]] = ()
    ) -> None:
        """What passes before any policy: (direction, protocol, port), for everybody and for members only."""
        rows: dict[bytes, bytes] = {}
        ports: set[int] = set()
        for whom, items in ((fw.FAILSAFE_MEMBERS, members), (fw.FAILSAFE_ALL, wanted)):
            for way, protocol, port in items:
                ports.add(port)
                rows[fw.FAILSAFE_KEY.pack(way, protocol, port.to_bytes(2, "big"))] = ROW.pack(whom)
        present = bpfsys.map_items(self._map("failsafe"), fw.FAILSAFE_KEY.size, 4)
        changed = {key: value for key, value in rows.items() if present.get(key) != value}
        bpfsys.map_update_many(self._map("failsafe"), changed)
        generation, flags, _seed, _failsafe = self._state()
        self._write_state(generation, flags, fw.failsafe_bits(ports))
        bpfsys.map_delete_many(self._map("failsafe"), [key for key in present if key not in rows])

    # --- devices ---

    def _attachment(self) -> Attachment:
        return Attachment(self._parent, self._loaded.programs, FIREWALL_PREFIX)

    def attach(self, devices: Iterable[Device]) -> list[str]:
        """Attach to these devices where missing or old; returns what changed."""
        if not self.generation:
            raise WardmeshError("the firewall has no policy yet", remedy="set_policy comes before attach")
        lines = self._attachment().attach(devices)
        for folder in self._pins.stale(self._loaded.generation):
            self._pins.remove(folder)
            lines.append(f"firewall: removed the old {folder.name}")
        return lines

    def problems(self, devices: Iterable[Device]) -> list[str]:
        """Devices without the firewall, and filters of others before it."""
        return self._attachment().problems(devices)

    def teardown(self) -> list[str]:
        """Detach everywhere and remove the pins."""
        lines = self._attachment().detach_all()
        self.close()
        self._pins.remove_all()
        return lines

    # --- what happened ---

    def counters(self) -> dict[tuple[str, str], Counter]:
        """Packets and bytes by (reason, direction): of new flows that pass, of every packet that does not."""
        size = METRIC.size * possible_cpus()
        found = {}
        for reason, name in fw.REASONS.items():
            for direction, label in DIRECTIONS.items():
                raw = bpfsys.map_lookup(self._map("metrics"), metric_row(reason, direction), size) or b""
                rows = list(METRIC.iter_unpack(raw))
                found[name, label] = Counter(sum(row[0] for row in rows), sum(row[1] for row in rows))
        return found

    def _forget_judged(self, half: int) -> None:
        items = bpfsys.map_items(self._map("judged"), fw.JUDGED_KEY.size, 8)
        bpfsys.map_delete_many(self._map("judged"), [key for key in items if key[1] == half])

    @property
    def folder(self) -> Path:
        """The pinned programs in use."""
        return self._loaded.generation[1]


def _net_flags(entries: Iterable[Network]) -> int:
    flags = 0
    for network in entries:
        if network.prefixlen != network.max_prefixlen:
            flags |= fw.STATE_NETS4 if network.version == 4 else fw.STATE_NETS6
    return flags
