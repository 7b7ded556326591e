# SPDX-License-Identifier: Apache-2.0
"""Firewalls that a host can have, ours and others, to be measured in turn: each with so many rules."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.firewall import Size, loaded

IDENTITIES = 20_000  # half of the peers are IPv4: ten thousand
PEERS, PORT = IDENTITIES // 2, 2_001
GROWTH = (10, 1_000, 10_000)  # rules


@dataclass(frozen=True)
class Variant:
    """A firewall. command, text: what installs another's, and what that reads, by protocol and rules."""

    name: str
    rules: int = 0
    ours: bool = False
    command: tuple[str, ...] = ()
    text: Callable[[str, int], str] | None = None

    def install(self, protocol: str, wall: Any, device: tuple[int, str, bool]) -> None:
        """On a device of the namespace that the calling thread is in; protocol: whose port 2001 is open."""
        if self.ours:
            wall.attach([device])
        if self.text:
            given = self.text(protocol, self.rules)
            subprocess.run(self.command, input=given, text=True, check=True, capture_output=True)
            # Conntrack does not look at checksums, as with a network card that does.
            Path("/proc/sys/net/netfilter/nf_conntrack_checksum").write_text("0")


def wardmesh(rules: int) -> Variant:
    """Ours, with ten thousand peers."""
    return Variant(f"wardmesh, {PEERS:,} peers, {rules:,} rules", rules, ours=True)


def nft_set(elements: int) -> Variant:
    """What an expert writes: what is established first, then one look-up of peer and port."""
    return Variant(
        f"nftables, conntrack and a set of {elements:,}", elements, False, ("nft", "-f", "-"), _set
    )


def nft_rules(rules: int) -> Variant:
    """What is established first, then a rule for each of many others."""
    return Variant(
        f"nftables, conntrack and {rules:,} linear rules", rules, False, ("nft", "-f", "-"), _linear
    )


def iptables(rules: int) -> Variant:
    """The same by what Debian, Ubuntu and RHEL call iptables, which keeps its rules in nf_tables."""
    return Variant(
        f"iptables, conntrack and {rules:,} linear rules", rules, False, ("iptables-nft-restore",), _tables
    )


def legacy(rules: int) -> Variant:
    """The same by its older kind, with tables of its own."""
    name = f"iptables-legacy, conntrack and {rules:,} linear rules"
    return Variant(name, rules, False, ("iptables-legacy-restore",), _tables)


def peer(number: int) -> str:
    """An IPv4 peer; the last one may do nothing."""
    return str(ipaddress.ip_address(Size(IDENTITIES, 1).friend(4)) + number)


def _others(rules: int) -> Iterator[tuple[str, int]]:
    """Somebody else's address and port, for each rule."""
    return ((f"10.9.{number >> 8}.{number & 255}", 6_000 + number) for number in range(rules))


def _chain(sets: str, rules: str) -> str:
    head = "chain in { type filter hook input priority filter; policy drop;\nct state established accept\n"
    return f"table inet bench {{\n{sets}{head}{rules}}}\n}}\n"


def _set(protocol: str, elements: int) -> str:
    """The peers that may, and others beyond them, each with a port."""
    held = [f"{peer(number)} . {PORT}" for number in range(min(elements, PEERS) - 1)]
    sets = f"set open {{ type ipv4_addr . inet_service; elements = {{ {', '.join(held)} }} }}\n"
    return _chain(sets, f"ip saddr . {protocol} dport @open accept\n")


def _linear(protocol: str, rules: int) -> str:
    lines = [f"ip saddr {source} {protocol} dport {port} accept\n" for source, port in _others(rules)]
    return _chain("", "".join(lines) + f"ip saddr != {peer(PEERS - 1)} {protocol} dport {PORT} accept\n")


def _tables(protocol: str, rules: int) -> str:
    lines = [
        f"-A INPUT -s {source} -p {protocol} --dport {port} -j ACCEPT\n" for source, port in _others(rules)
    ]
    return (
        "*filter\n:INPUT DROP\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"
        + "".join(lines)
        + f"-A INPUT ! -s {peer(PEERS - 1)} -p {protocol} --dport {PORT} -j ACCEPT\nCOMMIT\n"
    )


NONE, OURS, SET = Variant("no firewall"), wardmesh(1_000), nft_set(PEERS)


@contextmanager
def walls(variants: tuple[Variant, ...]) -> Iterator[dict[str, Any]]:
    """Our programs for each variant of ours, by its name."""
    with ExitStack() as held:
        yield {
            one.name: held.enter_context(loaded(Size(IDENTITIES, one.rules))) for one in variants if one.ours
        }
