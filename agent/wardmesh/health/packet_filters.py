# SPDX-License-Identifier: Apache-2.0
"""Pure: the host's own packet filter, from `nft -j list ruleset` or `iptables -S`, and whether a port passes.

Only protocol and destination port are understood. A rule with other conditions is not plain: it may or may
not decide, so it never makes a port count as open or closed by itself.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional

from wardmesh.health.facts import Chain, FilterRule
from wardmesh.model.errors import WardmeshError

Ports = Optional[tuple[tuple[int, int], ...]]
_DEPTH = 8  # of jumps; more are a loop or beyond what an operator reads
_STATEMENTS = ("accept", "drop", "reject")
_HARMLESS = ("counter", "comment", "log")


def nft_chains(text: str) -> tuple[Chain, ...]:
    """The base chains at hook input, for IP; WardmeshError where the text is no ruleset."""
    try:
        entries = json.loads(text)["nftables"]
        chains = {_chain_key(e["chain"]): e["chain"] for e in entries if "chain" in e}
        rules: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for entry in entries:
            if "rule" in entry:
                rule = entry["rule"]
                rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
        return tuple(
            Chain(
                " ".join(key),
                str(chain.get("policy", "accept")),
                tuple(_nft_rules(key, rules, 0)),
            )
            for key, chain in chains.items()
            if chain.get("hook") == "input" and key[0] in ("ip", "ip6", "inet")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WardmeshError(
            "cannot read the ruleset", where="nft -j list ruleset", why=repr(error)
        ) from error


def _chain_key(chain: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(chain["family"]), str(chain["table"]), str(chain["name"])


def _nft_rules(
    key: tuple[str, str, str], rules: Mapping[tuple[str, str, str], list[Mapping[str, Any]]], depth: int
) -> Iterator[FilterRule]:
    for rule in rules.get(key, ()):
        conditions: list[Mapping[str, Any]] = []
        for statement in rule.get("expr", ()):
            kind = next(iter(statement), "")
            if kind in _STATEMENTS:
                verdict = "accept" if kind == "accept" else "drop"
                yield _nft_rule(verdict, conditions)
            elif kind in ("jump", "goto") and depth < _DEPTH:
                inner = (key[0], key[1], str(statement[kind]["target"]))
                for found in _nft_rules(inner, rules, depth + 1):
                    yield _narrowed(found, _nft_rule(found.verdict, conditions))
            elif kind not in _HARMLESS:
                conditions.append(statement)


def _nft_rule(verdict: str, conditions: Iterable[Mapping[str, Any]]) -> FilterRule:
    protocol, ports, plain = "", None, True
    for condition in conditions:
        match = condition.get("match", {})
        left, right = match.get("left", {}), match.get("right")
        payload = left.get("payload", {}) if isinstance(left, dict) else {}
        meta = left.get("meta", {}) if isinstance(left, dict) else {}
        if match.get("op") not in ("==", "in"):
            plain = False
        elif payload.get("field") == "dport":
            protocol, ports = str(payload["protocol"]), _nft_ports(right)
            if ports is None:  # a named set may hold any port
                ports, plain = ((0, 65535),), False
        elif (meta.get("key") == "l4proto" and isinstance(right, str)) or (
            payload.get("field") in ("protocol", "nexthdr") and isinstance(right, str)
        ):
            protocol = right
        else:
            plain = False
    return FilterRule(verdict, "" if protocol == "th" else protocol, ports, plain)


def _nft_ports(right: Any) -> Ports:
    """Ranges; None where they cannot be read, as those of a named set."""
    if isinstance(right, int):
        return ((right, right),)
    if isinstance(right, dict) and "range" in right:
        first, last = right["range"]
        return ((int(first), int(last)),)
    if isinstance(right, dict) and "set" in right:
        parts = [_nft_ports(item) for item in right["set"]]
        return None if None in parts else tuple(row for part in parts if part for row in part)
    return None


def _narrowed(rule: FilterRule, outer: FilterRule) -> FilterRule:
    """A rule behind a jump holds only where the jump's own conditions do."""
    return FilterRule(
        rule.verdict,
        rule.protocol or outer.protocol,
        rule.ports if rule.ports is not None else outer.ports,
        rule.plain and outer.plain and (outer.ports is None or rule.ports is None),
    )


def iptables_chain(text: str, name: str) -> Chain:
    """The chain INPUT of `iptables -S`; chains that it jumps to are followed."""
    policy = "accept"
    rules: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        words = shlex.split(line)
        if words[:2] == ["-P", "INPUT"]:
            policy = words[2].lower()
        elif words[:1] == ["-A"]:
            rules.setdefault(words[1], []).append(words[2:])
    return Chain(name, policy, tuple(_iptables_rules("INPUT", rules, 0)))


def _iptables_rules(chain: str, rules: Mapping[str, list[list[str]]], depth: int) -> Iterator[FilterRule]:
    for words in rules.get(chain, ()):
        rule, target = _iptables_rule(words)
        if target in ("ACCEPT", "DROP", "REJECT"):
            yield rule
        elif target in rules and depth < _DEPTH:
            for found in _iptables_rules(target, rules, depth + 1):
                yield _narrowed(found, rule)


def _iptables_rule(words: list[str]) -> tuple[FilterRule, str]:
    protocol, target, plain = "", "", True
    ports: Ports = None
    rest = iter(words)
    for word in rest:
        if word in ("-p", "--protocol"):
            protocol = next(rest, "")
        elif word in ("--dport", "--dports", "--destination-port"):
            ports = _iptables_ports(next(rest, ""))
            plain = plain and ports is not None
        elif word in ("-j", "-g"):
            target = next(rest, "")
            break  # what follows are options of the target
        elif word in ("-m", "--match"):
            plain = next(rest, "") in ("udp", "tcp", "multiport", "comment") and plain
        elif word == "--comment":
            next(rest, "")
        else:
            plain = False
            if word != "!":
                next(rest, "")
    return FilterRule("accept" if target == "ACCEPT" else "drop", protocol, ports, plain), target


def _iptables_ports(text: str) -> Ports:
    found = []
    for part in text.split(","):
        first, _colon, last = part.partition(":")
        if not first.isdigit() or (last and not last.isdigit()):
            return None
        found.append((int(first), int(last or first)))
    return tuple(found)


def covers(rule: FilterRule, protocol: str, port: int) -> bool:
    """Does the rule speak of this port?"""
    if rule.protocol not in ("", "all", protocol):
        return False
    return rule.ports is None or any(first <= port <= last for first, last in rule.ports)


def fate(chain: Chain, protocol: str, port: int) -> str:
    """accept or drop by plain rules and policy; unclear where another rule may decide first."""
    unclear = False
    for rule in chain.rules:
        if not covers(rule, protocol, port):
            continue
        if rule.plain:
            return "unclear" if unclear and rule.verdict == "drop" else rule.verdict
        if rule.verdict == "accept" and rule.ports is not None:
            unclear = True  # it names the port, for some senders perhaps
    return "unclear" if unclear and chain.policy == "drop" else chain.policy
