# SPDX-License-Identifier: Apache-2.0
"""Pure: the map that was rolled out and what the store says, as one map; who claims another's is refused.

Rules, the same on every host:
  1. The rolled-out map stands. A record of one of its members adds labels, and changes nothing else of it;
     where both name a label, the map's value counts (as the inventory's does against labels set by hand).
  2. Of other records the older one (by the store's revision) stands against the newer one, then by name.
  3. Name, key, address, endpoint and subnets belong to one member. A record that claims what another has is
     refused as a whole. Subnets, and addresses outside the allowed networks, need the operator's word.
  4. Where hosts change their keys by themselves, a record gives a member of the map its keys, if it names the
     map's key among those it had before: only then it is the later one. It counts after it is gone, too.
  5. A departed member keeps its addresses for its grace; while they are kept, it is sealed where it was.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from wardmesh.discovery.document import Claim, Discovered
from wardmesh.discovery.members import shortened, with_labels
from wardmesh.model.fleetmap import Address, FleetMap, Member, Network

Span = tuple[int, int, int, str]  # version, first, last, owner


@dataclass(frozen=True)
class Refused:
    """A record that is not acted on."""

    name: str
    why: str


class Owners:
    """Who has which key, endpoint and address. What different members have never overlaps."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._spans: list[Span] = []

    def claim(self, member: Member) -> str:
        """Take in a member; where it conflicts with another one, say why, and take nothing in."""
        words, spans = _words(member), _spans(member)
        for kind, value in words:
            owner = self._names.get((kind, value))
            if owner is not None and owner != member.name:
                return f"{kind} {value} belongs to {owner}"
        for span in spans:
            owner = self._overlap(span)
            if owner:
                first = ipaddress.IPv4Address(span[1]) if span[0] == 4 else ipaddress.IPv6Address(span[1])
                return f"address {first} belongs to {owner}"
        for word in words:
            self._names[word] = member.name
        for span in spans:
            insort(self._spans, span)
        return ""

    def owner(self, address: Address) -> str:
        """Whose an address is, "" is nobody's."""
        return self._overlap((address.version, int(address), int(address), ""))

    def _overlap(self, span: Span) -> str:
        version, first, last, name = span
        place = bisect_left(self._spans, (version, first, -1, ""))
        before = self._spans[place - 1] if place else (0, 0, 0, "")
        if before[0] == version and before[2] >= first and before[3] != name:
            return before[3]
        while place < len(self._spans) and self._spans[place][:2] <= (version, last):
            if self._spans[place][3] != name:
                return self._spans[place][3]
            place += 1
        return ""


def _words(member: Member) -> list[tuple[str, str]]:
    words = [("name", member.name), ("key", member.key), ("endpoint", str(member.endpoint))]
    return words + ([("key", member.next_key)] if member.next_key else [])


def _spans(member: Member) -> list[Span]:
    if not member.allowed_ips and not member.pods:
        return [(item.version, int(item), int(item), member.name) for item in member.addresses]
    found: list[Span] = []
    for version in (4, 6):
        nets = [network for network in member.networks() if network.version == version]
        found += [
            (version, int(network.network_address), int(network.broadcast_address), member.name)
            for network in ipaddress.collapse_addresses(nets)  # type: ignore[type-var]
        ]
    return found


def merge(
    fleet: FleetMap,
    found: Discovered,
    *,
    allowed: Sequence[Network] = (),
    keep_departed: bool = False,
    own: str = "",
    by_themselves: bool = False,
) -> tuple[FleetMap, tuple[Refused, ...]]:
    """The map in force, and the records that it is not made of.

    allowed: networks that addresses may come from, empty is any. keep_departed: this host serves the store;
    without a tunnel to it nobody could come back, so departed members stay peers here. own: this host's
    name, whose keys the caller knows better. by_themselves: do hosts change their keys by themselves?
    """
    owners = Owners()
    members = {member.name: member for member in fleet.members}
    if by_themselves:
        _succeed(members, found, own)
    for member in members.values():
        owners.claim(member)
    refused: list[Refused] = []
    for claim in in_order(found.claims.values()):
        name = claim.member.name
        why = (
            _declared(members[name], claim.member, own)
            if name in members
            else _new(claim.member, owners, allowed)
        )
        if why:
            refused.append(Refused(name, why))
        elif name not in members:
            members[name] = claim.member
        else:
            members[name] = with_labels(members[name], {**claim.member.labels, **members[name].labels})
    departed = []
    for claim in in_order(item.claim for item in found.departed.values()):
        member = claim.member
        if member.name not in members and not owners.claim(member):
            departed.append(member)
    if keep_departed:
        members.update({member.name: member for member in departed})
        departed = []
    return (
        replace(
            fleet,
            members=tuple(members[name] for name in sorted(members)),
            departed=tuple(sorted(departed, key=lambda member: member.name)),
        ),
        tuple(refused),
    )


def in_order(claims: Iterable[Claim]) -> list[Claim]:
    """Who came first, first."""
    return sorted(claims, key=lambda claim: (claim.since, claim.member.name))


def _succeed(members: dict[str, Member], found: Discovered, own: str) -> None:
    """Give members of the map the keys that their records, or the last ones there were, say they have now."""
    taken = {key: member.name for member in members.values() for key in (member.key, member.next_key) if key}
    words = {**found.rotated, **{name: item.claim for name, item in found.departed.items()}, **found.claims}
    for claim in in_order(words.values()):
        held = members.get(claim.member.name)
        if held is None or held.name == own:
            continue
        now = _successor(held, claim)
        if any(taken.setdefault(key, held.name) != held.name for key in (now.key, now.next_key) if key):
            continue  # _declared refuses the record
        members[held.name] = now


def _successor(held: Member, claim: Claim) -> Member:
    """The member of the map with the keys of its record, where that is the later word."""
    said = claim.member
    if said.key == held.key:
        return replace(held, next_key=held.next_key or said.next_key)
    if shortened([held.key])[0] in claim.former:
        return replace(held, key=said.key, next_key=said.next_key)
    return held


def _declared(held: Member, claimed: Member, own: str) -> str:
    """Does a record fit to the member of the rolled-out map?"""
    # While keys rotate, map and record change at different times; they meet in one of the two keys.
    if held.name != own and not {claimed.key, claimed.next_key} & {held.key, held.next_key} - {""}:
        return f"the map has {held.name} under another key"
    strange = [address for address in claimed.addresses if address not in held.addresses]
    if strange:
        return f"the map does not give {held.name} the address {strange[0]}"
    return ""


def _new(member: Member, owners: Owners, allowed: Sequence[Network]) -> str:
    """Let a member join that only the store knows, or say why not."""
    for network in member.networks() if allowed else ():
        if not any(is_inside(network, outer) for outer in allowed):
            return f"{network} is outside of discovery.networks"
    if member.allowed_ips and not allowed:
        return "subnets behind a member of the store need discovery.networks"
    return owners.claim(member)


def is_inside(network: Network, outer: Network) -> bool:
    """Is every address of the one in the other?"""
    return (
        network.version == outer.version
        and int(outer.network_address) <= int(network.network_address)
        and int(network.broadcast_address) <= int(outer.broadcast_address)
    )
