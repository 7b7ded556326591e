# SPDX-License-Identifier: Apache-2.0
"""From flows that policy would have dropped to the smallest policies that admit them, and nothing else.

Hosts are named by labels where labels select exactly them in this fleet, by their names otherwise. Strangers
are named by their addresses. Subjects whose rules are the same share one policy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import yaml

from wardmesh.model.fleetmap import Address, FleetMap, Member, Network
from wardmesh.model.labels import NAME, PREFIX
from wardmesh.observe.aggregate import port_text
from wardmesh.observe.flow import ICMP, ICMP6, SCTP, TCP, UDP, Direction, Flow
from wardmesh.observe.names import Names

Port = tuple[int, int]  # protocol, and port or ICMP type
_ICMPS = {ICMP: "IPv4", ICMP6: "IPv6"}
_PORTS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
_MOST_ENTRIES = 40  # of one list of ports; upstream's bound
_LINES = 20  # comment lines of one rule
MOST_FLOWS = 200_000  # different flows that are looked at


@dataclass(frozen=True)
class Seen:
    """The subject's side of a flow. peer: a member's name, or a stranger's address."""

    subject: str
    ingress: bool
    peer: str | Address
    port: Port


@dataclass(frozen=True)
class Item:
    """One rule: these peers on these ports; either members or strangers, either ports or ICMP types."""

    peers: frozenset[str | Address]
    ports: frozenset[Port]


@dataclass
class Suggestion:
    """documents: policies as YAML texts; unsaid: what no policy can admit, and why."""

    documents: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)

    def text(self) -> str:
        """One YAML file."""
        head = [f"# not admitted: {line}" for line in self.unsaid]
        body = "---\n".join(self.documents) or "# no flow needs a policy\n"
        return "\n".join([*head, body]) if head else body


def suggest(flows: Iterable[Flow], fleet: FleetMap) -> Suggestion:
    """The policies; the caller has chosen the flows."""
    found = Suggestion()
    counts = _count(flows, Names(fleet, ""), found)
    rules: dict[tuple[bool, str], dict[str | Address, set[Port]]] = {}
    for seen in counts:
        peers = rules.setdefault((seen.ingress, seen.subject), {})
        peers.setdefault(seen.peer, set()).add(seen.port)
    chooser = Chooser(fleet)
    by_subjects: dict[frozenset[str], dict[bool, list[Item]]] = {}
    for ingress in (True, False):
        own = {subject: _items(peers) for (way, subject), peers in rules.items() if way is ingress}
        for subjects, items in _shared(own):
            by_subjects.setdefault(subjects, {})[ingress] = items
    names: set[str] = set()
    for subjects in sorted(by_subjects, key=sorted):
        name = _name(subjects, names)
        found.documents.append(_document(name, subjects, by_subjects[subjects], chooser, counts))
    return found


# --- what was seen ---


def _count(flows: Iterable[Flow], names: Names, found: Suggestion) -> dict[Seen, int]:
    counts: dict[Seen, int] = {}
    unsaid: dict[str, None] = {}
    for flow in flows:
        event = flow.event
        ingress = event.direction is Direction.INGRESS
        ends = (event.destination, event.source) if ingress else (event.source, event.destination)
        subject, peer = (names.party(address).name for address in ends)
        port = event.icmp_type if event.protocol in _ICMPS else event.destination_port
        words = f"{peer or ends[1]} {'->' if ingress else '<-'} {subject or ends[0]}"
        words += f" {port_text(event.protocol, port)}"
        why = _unsayable(flow, subject, port)
        if why:
            unsaid[f"{words}: {why}"] = None
        elif subject != peer:  # a host to itself is always allowed
            seen = Seen(subject, ingress, peer or ends[1], (event.protocol, port))
            if seen in counts or len(counts) < MOST_FLOWS:
                counts[seen] = counts.get(seen, 0) + 1
    found.unsaid += list(unsaid)[:_LINES]
    return counts


def _unsayable(flow: Flow, subject: str, port: int) -> str:
    event = flow.event
    if event.direction is Direction.UNKNOWN:
        return "nobody knows whose policy decided"
    if not subject:
        return "the host whose policy decided is no member of this fleet map"
    if event.denied_by:
        rules = ", ".join(policy.name for policy in event.denied_by)
        return f"a deny rule forbids it ({rules}), and deny beats allow"
    if event.protocol in _PORTS and port == 0:
        return "port 0 means every port in a policy"
    if event.protocol not in (*_PORTS, *_ICMPS):
        return "policies speak of TCP, UDP, SCTP and ICMP only"
    return ""


# --- fewest rules for one subject ---


def _items(peers: Mapping[str | Address, set[Port]]) -> list[Item]:
    """The pairs of one subject as rules: the product of peers and ports is never more than was seen."""
    items: list[Item] = []
    for members in (True, False):
        for icmp in (False, True):
            part = {
                peer: {port for port in ports if (port[0] in _ICMPS) is icmp}
                for peer, ports in peers.items()
                if isinstance(peer, str) is members
            }
            items += _fewest({peer: frozenset(ports) for peer, ports in part.items() if ports})
    return items


def _fewest(part: Mapping[str | Address, frozenset[Port]]) -> list[Item]:
    """Peers with the same ports together, or ports with the same peers: whichever is shorter."""
    by_ports: dict[frozenset[Port], set[str | Address]] = {}
    peers_of: dict[Port, set[str | Address]] = {}
    for peer, ports in part.items():
        by_ports.setdefault(ports, set()).add(peer)
        for port in ports:
            peers_of.setdefault(port, set()).add(peer)
    by_peers: dict[frozenset[str | Address], set[Port]] = {}
    for port, peers in peers_of.items():
        by_peers.setdefault(frozenset(peers), set()).add(port)
    first = [Item(frozenset(peers), ports) for ports, peers in by_ports.items()]
    second = [Item(peers, frozenset(ports)) for peers, ports in by_peers.items()]
    return sorted(first if len(first) <= len(second) else second, key=_item_order)


def _item_order(item: Item) -> tuple[list[str], list[Port]]:
    return sorted(map(str, item.peers)), sorted(item.ports)


def _shared(own: Mapping[str, list[Item]]) -> list[tuple[frozenset[str], list[Item]]]:
    """Subjects with the same rules together. Hosts of a group that talk to each other count themselves in."""
    found: list[tuple[frozenset[str], list[Item]]] = []
    with_self: dict[frozenset[Item], set[str]] = {}
    for subject, items in own.items():
        with_self.setdefault(frozenset(_including(item, subject) for item in items), set()).add(subject)
    left = dict(own)
    for items_set, subjects in with_self.items():
        if len(subjects) > 1:
            found.append((frozenset(subjects), sorted(items_set, key=_item_order)))
            for subject in subjects:
                del left[subject]
    same: dict[frozenset[Item], set[str]] = {}
    for subject, items in left.items():
        same.setdefault(frozenset(items), set()).add(subject)
    found += [(frozenset(subjects), sorted(items, key=_item_order)) for items, subjects in same.items()]
    return found


def _including(item: Item, subject: str) -> Item:
    if not any(isinstance(peer, str) for peer in item.peers):
        return item
    return Item(item.peers | {subject}, item.ports)


# --- whom labels select ---


class Chooser:
    """Selectors that choose exactly some members of a fleet."""

    def __init__(self, fleet: FleetMap) -> None:
        self._members: dict[str, Member] = {member.name: member for member in fleet.members}
        self._holders: dict[tuple[str, str], set[str]] = {}
        for member in fleet.members:
            for key, value in member.labels.items():
                if _usable(key, value):
                    self._holders.setdefault((key, value), set()).add(member.name)

    def selector(self, names: frozenset[str]) -> dict[str, object]:
        """The shortest one that chooses these members and no other."""
        common = self._common(names)
        for label in common:
            if self._holders[label] == names:
                return {"matchLabels": {f"vm:{label[0]}": label[1]}}
        for place, first in enumerate(common):
            for second in common[place + 1 :]:
                if self._holders[first] & self._holders[second] == names:
                    return {"matchLabels": {f"vm:{key}": value for key, value in sorted((first, second))}}
        return self._one_of(names)

    def _common(self, names: frozenset[str]) -> list[tuple[str, str]]:
        """Labels that all of them have, those of many members first: they say what a host is for."""
        held = [set(self._members[name].labels.items()) for name in names]
        shared = [label for label in (set.intersection(*held) if held else ()) if label in self._holders]
        return sorted(shared, key=lambda label: (-len(self._holders[label]), label))

    def _one_of(self, names: frozenset[str]) -> dict[str, object]:
        keys = sorted({key for name in names for key in self._members[name].labels})
        for key in keys:
            values = {self._members[name].labels.get(key) for name in names}
            if None in values or any(value is None or (key, value) not in self._holders for value in values):
                continue
            chosen = {name for value in values for name in self._holders[(key, str(value))]}
            if chosen == names:
                shown = sorted(str(value) for value in values)
                return {"matchExpressions": [{"key": f"vm:{key}", "operator": "In", "values": shown}]}
        if len(names) == 1:
            return {"matchLabels": {"vm:node": min(names)}}
        return {"matchExpressions": [{"key": "vm:node", "operator": "In", "values": sorted(names)}]}


def _usable(key: str, value: str) -> bool:
    """May a selector hold this label?"""
    prefix, slash, name = key.rpartition("/")
    good = NAME.match(name) and (PREFIX.match(prefix) if slash else True)
    return bool(good) and (not value or NAME.match(value) is not None)


# --- text ---


def _document(
    name: str,
    subjects: frozenset[str],
    sections: Mapping[bool, list[Item]],
    chooser: Chooser,
    counts: Mapping[Seen, int],
) -> str:
    head = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"endpointSelector": chooser.selector(subjects)},
    }
    lines = [yaml.safe_dump(head, sort_keys=False).rstrip("\n")]
    for ingress, items in sorted(sections.items(), reverse=True):
        lines.append(f"  {'ingress' if ingress else 'egress'}:")
        for item in items:
            lines += [f"    # {line}" for line in _comments(item, subjects, ingress, counts)]
            rule = yaml.safe_dump([_rule(item, ingress, chooser)], sort_keys=False)
            lines += [f"    {line}" for line in rule.rstrip("\n").splitlines()]
    return "\n".join(lines) + "\n"


def _rule(item: Item, ingress: bool, chooser: Chooser) -> dict[str, object]:
    word = "from" if ingress else "to"
    rule: dict[str, object] = {}
    members = frozenset(peer for peer in item.peers if isinstance(peer, str))
    if members:
        rule[f"{word}Endpoints"] = [chooser.selector(members)]
    else:
        rule[f"{word}CIDR"] = [str(network) for network in _networks(item.peers)]
    if any(protocol in _ICMPS for protocol, _kind in item.ports):
        fields = [{"type": kind, "family": _ICMPS[protocol]} for protocol, kind in sorted(item.ports)]
        rule["icmps"] = [{"fields": part} for part in _chunks(fields)]
    else:
        rule["toPorts"] = [{"ports": part} for part in _chunks(_runs(item.ports))]
    return rule


def _networks(peers: Iterable[str | Address]) -> list[Network]:
    """Neighbouring addresses as one prefix, never one address more."""
    found = [ipaddress.ip_network(peer) for peer in peers if not isinstance(peer, str)]
    four = [network for network in found if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in found if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def _runs(ports: Iterable[Port]) -> list[dict[str, object]]:
    """Neighbouring ports as one range."""
    runs: list[tuple[int, int, int]] = []
    for protocol, port in sorted(ports):
        if runs and runs[-1][0] == protocol and runs[-1][2] == port - 1:
            runs[-1] = (protocol, runs[-1][1], port)
        else:
            runs.append((protocol, port, port))
    return [
        {"port": str(first), **({"endPort": last} if last > first else {}), "protocol": _PORTS[protocol]}
        for protocol, first, last in runs
    ]


def _chunks(entries: list[dict[str, object]]) -> list[list[dict[str, object]]]:
    return [entries[place : place + _MOST_ENTRIES] for place in range(0, len(entries), _MOST_ENTRIES)]


def _comments(item: Item, subjects: frozenset[str], ingress: bool, counts: Mapping[Seen, int]) -> list[str]:
    lines = []
    for subject in sorted(subjects):
        for peer in sorted(item.peers, key=str):
            for port in sorted(item.ports):
                count = counts.get(Seen(subject, ingress, peer, port), 0)
                ends = (peer, subject) if ingress else (subject, peer)
                if count:
                    lines.append(f"{ends[0]} -> {ends[1]} {port_text(*port)}, seen {count} times")
    more = len(lines) - _LINES
    return [*lines[:_LINES], f"and {more} more"] if more > 0 else lines


def _name(subjects: frozenset[str], taken: set[str]) -> str:
    """A name that Kubernetes would take, too."""
    first = re.sub(r"[^a-z0-9.-]+", "-", min(subjects).lower()).strip("-.")
    base = f"suggested-{first}" + (f"-and-{len(subjects) - 1}-more" if len(subjects) > 1 else "")
    name, number = base[:240], 2
    while name in taken:
        name, number = f"{base[:240]}-{number}", number + 1
    taken.add(name)
    return name
