# SPDX-License-Identifier: Apache-2.0
"""What a policy set says for one endpoint: who may talk to whom on what, and which rule decides.

Order of rules never matters. A direction in which no rule switches to default deny is open but for its deny
rules; elsewhere deny beats allow, and what nothing allows is denied (upstream: pkg/policy, mapstate lookup).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wardmesh.model.fleetmap import Address, Network
from wardmesh.policy.documents import Item, Policy, PolicySet, Rule
from wardmesh.policy.fleet import HOST, REMOTE_NODE, Endpoint, Universe
from wardmesh.policy.peers import CidrRule, Peers
from wardmesh.policy.ports import ICMP, ICMP6, TCP, UDP, PortRange
from wardmesh.policy.selector import Selector, index_labels


class Action(enum.IntEnum):
    """What becomes of a flow; the numbers are those of a cell in the datapath."""

    NO_RULE = 0
    ALLOW = 1
    DENY = 2
    AUDIT = 3


@dataclass(frozen=True)
class Grant:
    """An item for one endpoint: whom (a set of entries) and what (None: everything) it speaks about."""

    policy: Policy
    item: Item
    peers: int
    ranges: tuple[PortRange, ...] | None

    @property
    def name(self) -> str:
        """Where it stands: file, policy and path."""
        return f"{self.policy.source}: {self.policy.name} {self.item.path}"

    def covers(self, protocol: int, port: int) -> bool:
        """Does it speak about this port, or ICMP type?"""
        if self.ranges is None:
            return True
        return any(r.protocol == protocol and r.first <= port <= r.last for r in self.ranges)


@dataclass(frozen=True)
class Direction:
    """All that speaks about one direction of one endpoint. enforced: default deny; audit: only recorded."""

    grants: tuple[Grant, ...]
    enforced: bool
    audit: bool

    def decide(self, place: int, protocol: int, port: int) -> tuple[Action, Grant | None]:
        """The verdict for a peer's entry, and the item that gave it, if one did."""
        allow: Grant | None = None
        for grant in self.grants:
            if grant.peers >> place & 1 and grant.covers(protocol, port):
                if grant.item.deny:
                    return (Action.AUDIT if self.audit else Action.DENY), grant
                allow = allow or grant
        if allow or not self.enforced:
            return Action.ALLOW, allow
        return (Action.AUDIT if self.audit else Action.NO_RULE), None


def prefixes(policies: PolicySet) -> set[Network]:
    """Every prefix that a rule names; the universe must tell them apart."""
    found: set[Network] = set()
    for policy in policies.policies:
        for rule in policy.rules:
            for item in (*rule.ingress, *rule.egress):
                for cidr in item.peers.cidrs:
                    found.update(cidr.excepted)
                    found.update([cidr.cidr] if cidr.cidr else [])
    for group in policies.groups:
        found.update(group.cidrs)
    return found


class Engine:
    """A policy set over a fleet. cluster: the own one, for the entity of that name."""

    def __init__(
        self,
        policies: PolicySet,
        endpoints: Iterable[Endpoint],
        cluster: str,
        universe: Universe | None = None,
    ) -> None:
        """universe: of the same endpoints and prefixes, where there is one already."""
        self.policies = policies
        self.endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._prefixes = prefixes(policies)
        self.universe = universe or Universe(
            self.endpoints.values(), cluster, sorted(self._prefixes, key=_order)
        )
        self._groups = [(group, index_labels(group.labels)) for group in policies.groups]
        self._sets: dict[tuple[object, ...], int] = {}

    def under(self, policies: PolicySet) -> Engine:
        """The same fleet under other policies: its entries are made anew only for other prefixes."""
        universe = self.universe if prefixes(policies) == self._prefixes else None
        return Engine(policies, self.endpoints.values(), self.universe.cluster, universe)

    # --- whom an item speaks about ---

    def peers(self, peers: Peers, requires: tuple[Selector, ...] = ()) -> int:
        """The set of entries that the peers of an item select; everybody where it names none."""
        if not peers.present:
            return self.universe.everything
        key = (peers, requires)
        if key not in self._sets:
            self._sets[key] = self._select(peers, requires)
        return self._sets[key]

    def _select(self, peers: Peers, requires: tuple[Selector, ...]) -> int:
        universe, found = self.universe, 0
        for selector in peers.endpoints:
            narrowed = Selector(selector.requirements + tuple(r for s in requires for r in s.requirements))
            found |= universe.selected(narrowed)
        for (
            selector
        ) in peers.nodes:  # over everything, as Cilium's engine has it in the tables (decision 0010)
            found |= universe.matching(selector)
        for entity in peers.entities:
            found |= universe.entity(entity)
        for cidr in peers.cidrs:
            found |= self._cidr(cidr)
        return found

    def _cidr(self, rule: CidrRule) -> int:
        if rule.cidr is not None:
            found = self.universe.within(rule.cidr)
            if rule.in_set and not rule.cidr.prefixlen:
                found &= ~self.universe.managed  # in a CIDRSet, everything is another word for the world
            for network in rule.excepted:
                found &= ~self.universe.within(network)
            return found
        found = 0
        for group, labels in self._groups:
            chosen = rule.group_selector.matches(labels) if rule.group_selector else rule.group == group.name
            for network in group.cidrs if chosen else ():
                found |= self.universe.within(network)
        return found

    # --- what a subject's policy is ---

    def subjects(self, rule: Rule) -> list[Endpoint]:
        """The endpoints that a rule's selector chooses."""
        return [found for found in self.endpoints.values() if self._chooses(rule, found)]

    def _chooses(self, rule: Rule, endpoint: Endpoint) -> bool:
        """Hosts are subjects under both reserved labels, as in the tables; a nodeSelector wants a host."""
        if rule.nodes_only and not endpoint.host:
            return False
        own = endpoint.labels | {HOST, REMOTE_NODE} if endpoint.host else endpoint.labels
        return rule.subject.matches(index_labels(own))

    def direction(self, subject: Endpoint, ingress: bool) -> Direction:
        """Everything that speaks about one direction of an endpoint."""
        chosen = [
            (policy, rule)
            for policy in self.policies.policies
            for rule in policy.rules
            if rule.items(ingress) and self._chooses(rule, subject)
        ]
        requires = {
            deny: tuple(
                selector
                for _policy, rule in chosen
                for item in rule.items(ingress)
                if item.deny is deny
                for selector in item.peers.requires
            )
            for deny in (False, True)
        }
        grants = [
            grant
            for policy, rule in chosen
            for item in rule.items(ingress)
            for grant in self._grants(policy, item, subject, requires[item.deny])
        ]
        enforcing = [policy for policy, rule in chosen if rule.default_deny[0 if ingress else 1]]
        selected = [policy for policy, _rule in chosen]
        return Direction(
            tuple(grants), bool(enforcing), bool(selected) and all(policy.audit for policy in selected)
        )

    def _grants(
        self,
        policy: Policy,
        item: Item,
        subject: Endpoint,
        requires: tuple[Selector, ...],
    ) -> Iterator[Grant]:
        layer4 = item.layer4
        if not item.peers.present and layer4.ranges is None:
            return  # an empty item is a section, and says nothing
        peers = self.peers(item.peers, requires)
        if layer4.ranges is None or layer4.ranges:
            yield Grant(policy, item, peers, layer4.ranges)
        for named in layer4.names:
            # Names are the subject's own in both directions, for TCP and UDP: so the tables have it.
            port = subject.ports.get(named.name)
            if port is not None and named.protocol in (TCP, UDP):
                yield Grant(policy, item, peers, (PortRange(named.protocol, port, port),))

    # --- one flow ---

    def verdict(
        self, subject: Endpoint, peer: Address, protocol: int, port: int, ingress: bool
    ) -> tuple[Action, Grant | None]:
        """What the subject's policy says about a flow from (ingress) or to (egress) an address."""
        return self.direction(subject, ingress).decide(self.universe.place_of(peer), protocol, port)


def is_icmp(protocol: int) -> bool:
    """Protocols whose port is a type."""
    return protocol in (ICMP, ICMP6)


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, network.prefixlen, int(network.network_address)
