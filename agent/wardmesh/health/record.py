# SPDX-License-Identifier: Apache-2.0
"""Pure: what is known of each peer from its checks, and the document that tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wardmesh.health.checks_tunnel import INTERFACE
from wardmesh.health.window import Figures, Window

REACHABLE, UNREACHABLE, UNKNOWN = "reachable", "unreachable", "unknown"
FAILURES = 3  # checks in a row without any answer until a peer counts as unreachable
ADDRESSES_MAX = 4  # of a member; more would cost the fleet more than they tell
TUNNEL, PLAIN, NO_WAY = "tunnel", "plain", "none"
# Of a peer and a protocol (icmp, icmp6 or http): why policy forbids it, "" where it does not.
Explain = Callable[[str, str], str]


@dataclass(frozen=True)
class Peer:
    """Whom to check: addresses in text, the primary one first."""

    name: str
    addresses: tuple[str, ...]


@dataclass
class Protocol:
    """One protocol to one address; error: why the last check had no good answer, "" where it had."""

    window: Window = field(default_factory=Window)
    error: str = ""
    _figures: dict[str, Any] | None = None

    def take(self, probes: Iterable[float | None], error: str) -> None:
        """The outcome of a check: round trips in seconds, None for what was lost."""
        for seconds in probes:
            self.window.add(seconds)
        self.error, self._figures = error, None

    def figures(self) -> dict[str, Any]:
        """The window in JSON's form; made once a check, for somebody may ask about ten thousand peers."""
        if self._figures is None:
            self._figures = _figures(self.window.figures())
        return self._figures


@dataclass
class AddressRecord:
    """One address of a peer."""

    address: str
    icmp: Protocol = field(default_factory=Protocol)
    http: Protocol = field(default_factory=Protocol)


@dataclass
class PeerRecord:
    """One peer. checked and since are times of the monotonic clock; device: where the route leads."""

    peer: Peer
    addresses: tuple[AddressRecord, ...]
    state: str = UNKNOWN
    failures: int = 0
    since: float = 0.0
    checked: float | None = None
    device: str = ""

    def take(self, alive: bool, now: float) -> bool:
        """The outcome of a check; True when the state changed."""
        self.checked = now
        self.failures = 0 if alive else self.failures + 1
        state = REACHABLE if alive else UNREACHABLE if self.failures >= FAILURES else self.state
        if state == self.state:
            return False
        self.state, self.since = state, now
        return True

    @property
    def path(self) -> str:
        """Which way its packets go."""
        if not self.device:
            return NO_WAY
        return TUNNEL if self.device == INTERFACE else PLAIN


def record_of(peer: Peer, now: float) -> PeerRecord:
    """A peer that was not checked yet."""
    addresses = tuple(AddressRecord(address) for address in peer.addresses[:ADDRESSES_MAX])
    return PeerRecord(peer, addresses, since=now)


def document(records: Iterable[PeerRecord], now: float) -> list[dict[str, Any]]:
    """A row for each peer; times and latencies in seconds, None where nothing is known."""
    return [_row(record, now) for record in records]


def _row(record: PeerRecord, now: float) -> dict[str, Any]:
    addresses = [_address(item) for item in record.addresses]
    best = _best(addresses[0])
    return {
        "name": record.peer.name,
        "state": record.state,
        "failures": record.failures,
        "path": record.path,
        "device": record.device,
        "checkedAgo": None if record.checked is None else round(now - record.checked, 3),
        "stateFor": round(now - record.since, 3),
        "latency": best["mean"],
        "loss": best["loss"],
        "jitter": best["jitter"],
        "addresses": addresses,
    }


def _address(item: AddressRecord) -> dict[str, Any]:
    told = {"icmp": item.icmp, "http": item.http}
    return {
        "address": item.address,
        **{name: {**held.figures(), "error": held.error, "denied": ""} for name, held in told.items()},
    }


def explain(rows: Iterable[dict[str, Any]], why: Explain) -> None:
    """Fill in `denied` where a check had no answer and policy is the reason."""
    for row in rows:
        for address in row["addresses"]:
            kinds = {"icmp": "icmp6" if ":" in address["address"] else "icmp", "http": "http"}
            for name, kind in kinds.items():
                if address[name]["error"]:
                    address[name]["denied"] = why(row["name"], kind)


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "sent": figures.sent,
        "lost": figures.lost,
        "loss": round(figures.loss, 4) if figures.sent else None,
        "last": _seconds(figures.last),
        "mean": _seconds(figures.mean),
        "jitter": _seconds(figures.jitter),
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _best(address: dict[str, Any]) -> dict[str, Any]:
    """The figures that speak for a peer: ICMP's, or HTTP's where nobody answers ICMP."""
    icmp, http = dict(address["icmp"]), dict(address["http"])
    return http if icmp["mean"] is None and http["mean"] is not None else icmp


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Peers by state."""
    return {state: sum(row["state"] == state for row in rows) for state in (REACHABLE, UNREACHABLE, UNKNOWN)}
