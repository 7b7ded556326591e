# SPDX-License-Identifier: Apache-2.0
"""Facts of a host for its digest, as short texts by name: what a device, map or table holds, or should hold.

Both sides, what is there and what is wished, are worded here side by side: they must only differ where the
host does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from wardmesh.datapath import bpfsys, contract
from wardmesh.datapath.guard_view import ipcache
from wardmesh.datapath.pinned import PinnedMaps
from wardmesh.model.config import PortException
from wardmesh.model.fleetmap import Network
from wardmesh.wireguard.backend import DeviceState, PeerConfig, PeerState
from wardmesh.wireguard.mark import MARK, OWN_PREFIX
from wardmesh.wireguard.routes import Route, Rule

TUNNEL = "tunnel"
_FLAGS = {contract.MEMBER: "member", contract.STRICT: "strict", contract.SELF: "self"}


def peer_facts(peers: Iterable[PeerConfig] | Iterable[PeerState], names: Mapping[str, str]) -> dict[str, str]:
    """Peers with allowed IPs and keepalive. Where a peer is now WireGuard learns by itself: no fact."""
    return {
        f"{names.get(peer.key, 'stranger')} {peer.key}": _peer(peer.allowed_ips, peer.keepalive)
        for peer in peers
    }


@lru_cache(maxsize=1 << 16)
def _peer(allowed: frozenset[Network], keepalive: int) -> str:
    return " ".join([*sorted(map(str, allowed)), *([f"keepalive {keepalive}"] if keepalive else [])])


def device_facts(port: int, mark: int, *, up: bool) -> dict[str, str]:
    """The tunnel's device."""
    return {"listen port": str(port), "mark": hex(mark), "state": "up" if up else "down"}


def found_device(state: DeviceState | None, *, up: bool) -> dict[str, str]:
    """The same of a device that is there, or is not."""
    return device_facts(state.listen_port, state.fwmark, up=up) if state is not None else {}


def wanted_device(port: int) -> dict[str, str]:
    """As it should be."""
    return device_facts(port, MARK, up=True)


def entry_facts(
    entries: Mapping[Network, tuple[int, int]], exceptions: Iterable[tuple[int, int]], port: int
) -> dict[str, str]:
    """The guard's members: identity and flags by network; what passes in plain; the tunnel's port."""
    facts = {
        str(network): _entry(identity, (word for bit, word in _FLAGS.items() if flags & bit))
        for network, (identity, flags) in entries.items()
    }
    facts.update({f"exception {protocol}/{number}": "passes" for protocol, number in exceptions})
    facts["tunnel port"], facts["state"] = str(port), "ready"
    return facts


def _entry(identity: int, words: Iterable[str]) -> str:
    return f"{'+'.join(words)} identity {identity}"


def found_entries(guard: PinnedMaps) -> dict[str, str]:
    """The same from the maps in the kernel."""
    facts = {str(network): _entry(identity, words) for network, (identity, words) in ipcache(guard).items()}
    for key in guard.items("exceptions"):
        protocol, _pad, port = contract.EXCEPTION_KEY.unpack(key)
        facts[f"exception {protocol}/{int.from_bytes(port, 'big')}"] = "passes"
    row = bpfsys.map_lookup(guard.maps["config"], contract.ROW.pack(0), contract.CONFIG.size)
    port, _second, flags = contract.CONFIG.unpack(row or bytes(contract.CONFIG.size))
    facts["tunnel port"] = str(int.from_bytes(port, "big"))
    facts["state"] = "ready" if flags & contract.CFG_READY else "not ready"
    return facts


def exceptions_of(items: Iterable[PortException]) -> list[tuple[int, int]]:
    """Protocol and port of what may pass in plain."""
    return [(item.protocol, item.port) for item in items]


def route_facts(routes: Iterable[Route], device: str = TUNNEL) -> dict[str, str]:
    """Routes of our table through one device."""
    return {f"route {route.network}": _route(route, device) for route in routes}


def _route(route: Route, device: str) -> str:
    return f"{device} source {route.source or 'any'} mtu {route.mtu or 'the device'}"


def found_routes(rows: Iterable[tuple[Route, int, bool]], devices: Mapping[int, str]) -> dict[str, str]:
    """The same from the kernel; devices: names by index. Every device of ours is the tunnel: while keys
    rotate there are two."""
    facts = {}
    for route, ifindex, right in rows:
        name = devices.get(ifindex, "no device")
        word = TUNNEL if name.startswith(OWN_PREFIX) else name
        facts[f"route {route.network}"] = _route(route, word) if right else f"a stranger's, by {word}"
    return facts


def rule_facts(rules: Iterable[tuple[Rule, bool]]) -> dict[str, str]:
    """Our rules; True: in its right form."""
    return {f"rule {rule}": "there" if right else "changed" for rule, right in rules}
