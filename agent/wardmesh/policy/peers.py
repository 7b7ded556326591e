# SPDX-License-Identifier: Apache-2.0
"""Whom a rule's item speaks about: selectors, CIDRs, entities, nodes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from wardmesh.model.fleetmap import Network
from wardmesh.policy.l7 import check_name
from wardmesh.policy.reading import Place
from wardmesh.policy.selector import Selector, parse_selector

# Entities of upstream (pkg/policy/api/entity.go). Those that no host of ours ever is select nobody.
ENTITIES = (
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "init",
    "health",
    "unmanaged",
    "none",
)


@dataclass(frozen=True)
class CidrRule:
    """A prefix without its exceptions, or a group of prefixes by name or by labels. in_set: of a CIDRSet."""

    cidr: Network | None
    excepted: tuple[Network, ...] = ()
    group: str | None = None
    group_selector: Selector | None = None
    in_set: bool = False


@dataclass(frozen=True)
class Peers:
    """present: did the item name peers at all, even by an empty list? Without, it speaks about everybody.

    empty: some list was given empty, and none has content: nobody.
    """

    present: bool = False
    endpoints: tuple[Selector, ...] = ()
    nodes: tuple[Selector, ...] = ()
    entities: tuple[str, ...] = ()
    cidrs: tuple[CidrRule, ...] = ()
    requires: tuple[Selector, ...] = ()
    later: tuple[str, ...] = field(default=())


def parse_peers(item: Place, ingress: bool) -> Peers:
    """The peers of an item: the from… fields of ingress, the to… fields of egress."""
    way = "from" if ingress else "to"
    names = [f"{way}{kind}" for kind in ("Endpoints", "CIDR", "CIDRSet", "Entities", "Nodes", "Groups")]
    if not ingress:
        names += ["toServices", "toFQDNs"]
    filled = [name for name in names if item.value.get(name)]
    # CIDR and CIDRSet may stand together; every other pair may not.
    kinds = ["CIDR" if name in (f"{way}CIDR", f"{way}CIDRSet") else name for name in filled]
    if len(set(kinds)) > 1 or (f"{way}CIDR" in filled and f"{way}CIDRSet" in filled):
        item.fail(f"combining {filled[0]} and {filled[1]} is not supported yet", remedy="use two items")
    later = []
    for place in item.at("toFQDNs").items() if not ingress else ():
        check_name(place)
    later += [name for name in (f"{way}Groups", "toServices", "toFQDNs") if item.value.get(name)]
    cidrs = [CidrRule(parse_cidr(place)) for place in item.at(f"{way}CIDR").items()]
    cidrs += [_cidr_set(place) for place in item.at(f"{way}CIDRSet").items()]
    return Peers(
        present=any(item.has(name) for name in names),
        endpoints=tuple(parse_selector(place) for place in item.at(f"{way}Endpoints").items()),
        nodes=tuple(parse_selector(place) for place in item.at(f"{way}Nodes").items()),
        entities=tuple(_entity(place) for place in item.at(f"{way}Entities").items()),
        cidrs=tuple(cidrs),
        requires=tuple(parse_selector(place) for place in item.at(f"{way}Requires").items()),
        later=tuple(later),
    )


def parse_cidr(place: Place) -> Network:
    """A prefix, or a bare address as upstream took it up to 1.19; host bits are cut off."""
    text = place.text()
    try:
        if not text or "%" in text:
            raise ValueError("no address")
        if "/" in text and not text.rpartition("/")[2].isdigit():
            raise ValueError("no prefix length")
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        place.fail(f"unable to parse CIDR {text!r}", str(error), "write it like 10.0.0.0/8 or fd00::/64")


def _cidr_set(place: Place) -> CidrRule:
    place.mapping(("cidr", "except", "cidrGroupRef", "cidrGroupSelector"))
    given = [key for key in ("cidr", "cidrGroupRef", "cidrGroupSelector") if place.has(key)]
    if not given:
        place.fail("one of cidr, cidrGroupRef, or cidrGroupSelector is required")
    if len(given) > 1:
        place.fail("more than one of cidr, cidrGroupRef, or cidrGroupSelector may not be set")
    excepted = []
    cidr = parse_cidr(place.at("cidr")) if given == ["cidr"] else None
    for item in place.at("except").items():
        inner = parse_cidr(item)
        if cidr is None:
            item.fail("except stands with cidr only")
        if inner.version != cidr.version or not inner.subnet_of(cidr):  # type: ignore[arg-type]
            item.fail(f"allow CIDR prefix {cidr} does not contain exclude CIDR prefix {inner}")
        excepted.append(inner)
    group = place.at("cidrGroupRef").text() if given == ["cidrGroupRef"] else None
    selector = parse_selector(place.at("cidrGroupSelector")) if given == ["cidrGroupSelector"] else None
    return CidrRule(cidr, tuple(excepted), group, selector, in_set=True)


def _entity(place: Place) -> str:
    name = place.text()
    if name not in ENTITIES:
        place.fail(f"unsupported entity: {name}", f"known: {', '.join(ENTITIES)}")
    return name
