# SPDX-License-Identifier: Apache-2.0
"""From the text of policy files to typed rules: CiliumNetworkPolicy, its clusterwide sister, CIDR groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Network
from wardmesh.model.strict_yaml import check_size, strict_mapping, yaml_errors
from wardmesh.policy.peers import Peers, parse_cidr, parse_peers
from wardmesh.policy.ports import Layer4, parse_layer4
from wardmesh.policy.reading import Place
from wardmesh.policy.selector import Selector, parse_selector

try:  # libyaml, ten times as fast; a distribution may build PyYAML without it
    from yaml import CSafeLoader as _Base
except ImportError:
    from yaml import SafeLoader as _Base  # type: ignore[assignment]

POLICY_KINDS = ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
GROUP_KIND = "CiliumCIDRGroup"
VERSIONS = ("cilium.io/v2", "cilium.io/v2alpha1")
LONGEST_LOG = 32
AUDIT_ANNOTATION = "wardmesh.io/audit"
_RULE_FIELDS = (
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "labels",
    "description",
    "log",
)
_FROM = (
    "fromEndpoints",
    "fromRequires",
    "fromCIDR",
    "fromCIDRSet",
    "fromEntities",
    "fromNodes",
    "fromGroups",
)
_TO = (*("to" + name[4:] for name in _FROM), "toServices")


@dataclass(frozen=True)
class Item:
    """One list item of a section. path: where it stands, like spec.ingress[0]."""

    peers: Peers
    layer4: Layer4
    deny: bool
    path: str


@dataclass(frozen=True)
class Rule:
    """One spec. default_deny: (ingress, egress): does it switch its subjects to default deny?

    nodes_only: a nodeSelector; it never selects a pod.
    """

    subject: Selector
    nodes_only: bool
    ingress: tuple[Item, ...]
    egress: tuple[Item, ...]
    default_deny: tuple[bool, bool]
    description: str
    log: str

    def items(self, ingress: bool) -> tuple[Item, ...]:
        """The items of one direction, deny and allow."""
        return self.ingress if ingress else self.egress


@dataclass(frozen=True)
class Policy:
    """One document. source: file and document; later: what it says that this version cannot enforce."""

    kind: str
    name: str
    namespace: str
    source: str
    rules: tuple[Rule, ...]
    audit: bool
    later: tuple[str, ...]
    document: Mapping[str, Any]


@dataclass(frozen=True)
class CidrGroup:
    """Prefixes under a name and labels."""

    name: str
    labels: frozenset[str]
    cidrs: tuple[Network, ...]
    source: str


@dataclass(frozen=True)
class PolicySet:
    """Everything that an operator wrote, checked as a whole."""

    policies: tuple[Policy, ...] = ()
    groups: tuple[CidrGroup, ...] = ()


def parse_text(text: str, source: str) -> list[Policy | CidrGroup]:
    """The documents of one file; errors carry file, document and path."""
    with yaml_errors(source):
        documents = list(yaml.load_all(text, Loader=_Loader))
    check_size(documents, source)
    found: list[Policy | CidrGroup] = []
    many = len([document for document in documents if document is not None]) > 1
    for number, document in enumerate(documents, 1):
        if document is not None:
            found += parse_document(document, f"{source} (document {number})" if many else source)
    if not found:  # a file that was cut short must not open what its policies closed
        raise WardmeshError(
            "the file holds no policy", where=source, remedy="write it again, or remove the file"
        )
    return found


class _Loader(_Base):
    """Refuses duplicate keys, which hide what an operator meant."""


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, strict_mapping)


def parse_document(document: Any, source: str) -> list[Policy | CidrGroup]:
    """One document; a List is all of its items."""
    place = Place(document, source)
    if not isinstance(document, dict):
        place.fail("expected a map", "a policy document has apiVersion, kind, metadata and spec")
    kind = document.get("kind")
    if kind == "List":
        return [
            found
            for item in place.at("items").items()
            for found in parse_document(item.value, f"{source} items[{item.path[6:-1]}]")
        ]
    if kind not in (*POLICY_KINDS, GROUP_KIND):
        place.at("kind").fail(f"unknown kind {kind!r}", f"known: {', '.join((*POLICY_KINDS, GROUP_KIND))}")
    if document.get("apiVersion") not in VERSIONS:
        place.at("apiVersion").fail(
            f"unknown version {document.get('apiVersion')!r}", f"known: {VERSIONS[0]}"
        )
    place.mapping(("apiVersion", "kind", "metadata", "spec", "specs", "status"))
    metadata = place.at("metadata")
    if not isinstance(metadata.value, dict) or not metadata.value.get("name"):
        metadata.at("name").fail(f"{kind} must have name") if isinstance(metadata.value, dict) else (
            metadata.fail(f"{kind} must have name")
        )
    name = metadata.at("name").text()
    return [_group(place, name) if kind == GROUP_KIND else _policy(place, str(kind), name)]


def _group(place: Place, name: str) -> CidrGroup:
    spec = place.at("spec").mapping(("externalCIDRs",))
    labels = place.value["metadata"].get("labels") or {}
    if not isinstance(labels, dict):
        place.at("metadata").at("labels").fail("expected a map of labels")
    held = {f"cidrgroup:{key}={value}" for key, value in labels.items()}
    held.add(f"cidrgroup:io.cilium.policy.cidrgroupname/{name}=")
    cidrs = tuple(parse_cidr(item) for item in spec.at("externalCIDRs").items())
    return CidrGroup(name, frozenset(held), cidrs, place.source)


def _policy(place: Place, kind: str, name: str) -> Policy:
    rules = []
    if place.has("spec"):
        rules.append(_rule(place.at("spec")))
    rules += [_rule(item) for item in place.at("specs").items()]
    if not rules:
        place.at("spec").fail("spec or specs must be provided", remedy="write a spec")
    later = [
        f"{item.path}: {feature}"
        for rule in rules
        for item in (*rule.ingress, *rule.egress)
        for feature in (*item.peers.later, *item.layer4.later)
    ]
    annotations = place.value["metadata"].get("annotations") or {}
    audit = isinstance(annotations, dict) and str(annotations.get(AUDIT_ANNOTATION, "")).lower() == "true"
    namespace = str(place.value["metadata"].get("namespace") or "")
    return Policy(kind, name, namespace, place.source, tuple(rules), audit, tuple(later), place.value)


def _rule(place: Place) -> Rule:
    place.mapping(_RULE_FIELDS)
    chosen = [key for key in ("endpointSelector", "nodeSelector") if place.has(key)]
    if not chosen:
        place.fail("rule must have one of EndpointSelector or NodeSelector")
    if len(chosen) > 1:
        place.fail("rule cannot have both EndpointSelector and NodeSelector")
    subject = parse_selector(place.at(chosen[0]))
    ingress = _section(place, "ingress", True, False) + _section(place, "ingressDeny", True, True)
    egress = _section(place, "egress", False, False) + _section(place, "egressDeny", False, True)
    # An empty list is accepted and is no section, as upstream has it.
    if not any(place.has(key) for key in ("ingress", "ingressDeny", "egress", "egressDeny")):
        place.fail("rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny")
    return Rule(
        subject,
        chosen == ["nodeSelector"],
        ingress,
        egress,
        _default_deny(place, ingress, egress),
        *_texts(place),
    )


def _default_deny(place: Place, ingress: tuple[Item, ...], egress: tuple[Item, ...]) -> tuple[bool, bool]:
    chosen = place.at("enableDefaultDeny")
    if chosen.value is None:
        return bool(ingress), bool(egress)
    chosen.mapping(("ingress", "egress"))
    return (
        chosen.at("ingress").flag() if chosen.has("ingress") else bool(ingress),
        chosen.at("egress").flag() if chosen.has("egress") else bool(egress),
    )


def _texts(place: Place) -> tuple[str, str]:
    description = place.at("description").text() if place.has("description") else ""
    for label in place.at("labels").items():
        if not isinstance(label.value, (dict, str)):
            label.fail("expected a label")
    log = ""
    if place.has("log"):
        value = place.at("log").mapping(("value",)).at("value")
        log = value.text() if value.value is not None else ""
        if len(log) > LONGEST_LOG or not log.isprintable():
            value.fail(f"at most {LONGEST_LOG} printable characters")
    return description, log


def _section(place: Place, name: str, ingress: bool, deny: bool) -> tuple[Item, ...]:
    return tuple(_item(item, ingress, deny) for item in place.at(name).items())


def _item(place: Place, ingress: bool, deny: bool) -> Item:
    fields = (*(_FROM if ingress else _TO), "toPorts", "icmps")
    if not deny:
        fields += ("authentication",) if ingress else ("authentication", "toFQDNs")
    place.mapping(fields)
    peers = parse_peers(place, ingress)
    layer4 = parse_layer4(place, ingress, deny)
    if not deny and place.has("authentication"):
        mode = place.at("authentication").mapping(("mode",)).at("mode")
        if mode.text() not in ("disabled", "required", "test-always-fail"):
            mode.fail("unknown mode", "disabled, required or test-always-fail")
        if mode.value != "disabled":
            layer4 = Layer4(layer4.ranges, layer4.names, (*layer4.later, "authentication"))
    return Item(peers, layer4, deny, place.path)


def policy_set(found: Iterable[Policy | CidrGroup]) -> PolicySet:
    """All documents together; two of one kind and name are an error, wherever they stand."""
    seen: dict[tuple[str, str, str], str] = {}
    policies: list[Policy] = []
    groups: list[CidrGroup] = []
    for item in found:
        key = (
            (item.kind, item.namespace, item.name)
            if isinstance(item, Policy)
            else (GROUP_KIND, "", item.name)
        )
        if key in seen:
            raise WardmeshError(
                f"two documents of one name: {key[0]} {item.name}",
                where=item.source,
                why=f"the other is in {seen[key]}",
                remedy="rename or remove one of them",
            )
        seen[key] = item.source
        if isinstance(item, Policy):
            policies.append(item)
        else:
            groups.append(item)
    return PolicySet(tuple(policies), tuple(groups))


def refuse_later(policies: PolicySet) -> None:
    """Refuse what cannot be enforced in this version: applied, it would allow more than it says."""
    for policy in policies.policies:
        if policy.later:
            raise WardmeshError(
                f"{policy.later[0].partition(': ')[2]} is not enforced in this version",
                where=f"{policy.source}: {policy.later[0].partition(': ')[0]}",
                why="the rule would allow more than it says",
                remedy="take it out, or allow the port without it",
            )
