# SPDX-License-Identifier: Apache-2.0
"""Pure: the text protocol of userspace WireGuard (wireguard.com/xplatform), both ways."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from wardmesh.model.fleetmap import Endpoint, Network
from wardmesh.wireguard.backend import PROVOKING_KEEPALIVE, PeerChanges, PeerState, PeerUpdate

_PEER = b"public_key="


def to_hex(key: str) -> str:
    """A key as the protocol writes it."""
    return base64.b64decode(key).hex()


def change_lines(changes: PeerChanges) -> list[str]:
    """A delta as the lines of one set operation."""
    lines: list[str] = []
    for peer in changes.add:
        lines += [f"public_key={to_hex(peer.key)}", "replace_allowed_ips=true"]
        if peer.endpoint is not None:
            lines.append(f"endpoint={peer.endpoint}")
        lines.append(f"persistent_keepalive_interval={peer.keepalive}")
        lines += _allowed_lines(peer.allowed_ips)
    for update in changes.update:
        lines += _update_lines(update)
    for key in changes.remove:
        lines += [f"public_key={to_hex(key)}", "remove=true"]
    return lines


def _update_lines(update: PeerUpdate) -> list[str]:
    lines = [f"public_key={to_hex(update.key)}", "update_only=true"]
    if update.endpoint is not None:
        lines.append(f"endpoint={update.endpoint}")
    if update.keepalive is not None:
        lines.append(f"persistent_keepalive_interval={update.keepalive}")
    if update.allowed_ips is not None:
        return [*lines, "replace_allowed_ips=true", *_allowed_lines(update.allowed_ips)]
    return lines + _allowed_lines(update.gained)


def _allowed_lines(networks: Iterable[Network]) -> list[str]:
    return sorted(f"allowed_ip={network}" for network in networks)


def provoke_lines(peers: Iterable[PeerState]) -> list[str]:
    """Keepalive on, which sends at once, and back to what it was; a peer may stand twice in one operation."""
    lines: list[str] = []
    for peer in peers:
        values = (0, peer.keepalive) if peer.keepalive else (PROVOKING_KEEPALIVE, 0)
        for value in values:
            lines += _update_lines(PeerUpdate(peer.key, keepalive=value))
    return lines


def parse_device(
    answer: bytes, cache: dict[bytes, PeerState]
) -> tuple[dict[str, str], dict[str, PeerState], dict[bytes, PeerState]]:
    """The answer of a get operation: the device's settings, its peers by key, and the next cache.

    cache: the peers of the last answer by their text. Of 10,000 peers few change between two looks, and
    splitting and comparing bytes is all that the others cost.
    """
    head, *blocks = (b"\n" + answer.rstrip(b"\n")).split(b"\n" + _PEER)
    settings = dict(line.split("=", 1) for line in head.decode().splitlines() if "=" in line)
    if blocks:  # the result code stands after the last peer
        blocks[-1], _newline, result = blocks[-1].rpartition(b"\nerrno=")
        settings["errno"] = result.decode()
    fresh: dict[bytes, PeerState] = {}
    for block in blocks:
        fresh[block] = cache.get(block) or _peer_state(block.decode())
    return settings, {peer.key: peer for peer in fresh.values()}, fresh


def _peer_state(block: str) -> PeerState:
    key, *lines = block.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    allowed = [line[11:] for line in lines if line.startswith("allowed_ip=")]
    return PeerState(
        base64.b64encode(bytes.fromhex(key)).decode(),
        _endpoint(found["endpoint"]) if "endpoint" in found else None,
        _networks(tuple(allowed)),
        int(found.get("persistent_keepalive_interval", 0)),
        int(found.get("last_handshake_time_sec", 0)) + int(found.get("last_handshake_time_nsec", 0)) / 1e9,
        int(found.get("rx_bytes", 0)),
        int(found.get("tx_bytes", 0)),
    )


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> frozenset[Network]:
    """A busy peer's text changes with every look, its networks do not."""
    return frozenset(map(ipaddress.ip_network, texts))


def _endpoint(value: str) -> Endpoint:
    host, _colon, port = value.rpartition(":")
    return Endpoint(host.strip("[]"), int(port))
