# SPDX-License-Identifier: Apache-2.0
"""Layer 7, TLS, names: validated as upstream validates them, and told as what this version cannot enforce."""

from __future__ import annotations

import re

from wardmesh.policy.reading import Place

_FQDN = re.compile(r"^[-a-zA-Z0-9_.]+$")
_PATTERN = re.compile(r"^[-a-zA-Z0-9_.*]+$")
_LONGEST = 255
_HEADER = {"name", "value", "secret", "mismatch"}
_MISMATCH = ("LOG", "ADD", "DELETE", "REPLACE")


def check_l7(place: Place, ports: list[tuple[str, str]], ingress: bool) -> list[str]:
    """Check what a toPorts entry says above layer 4; the features by name."""
    found: list[str] = []
    rules = place.at("rules")
    if rules.value is not None:
        rules.mapping(("http", "dns", "kafka", "l7proto", "l7"))
        found += _rules(rules, ports, ingress)
    for key in ("terminatingTLS", "originatingTLS"):
        if place.has(key):
            _tls(place.at(key))
            found.append(key)
    for name in place.at("serverNames").items():
        if not name.text():
            name.fail("empty server name is not allowed")
    if place.value.get("serverNames"):
        if found and "terminatingTLS" not in found and rules.value:
            place.at("serverNames").fail("serverNames with L7 rules need terminatingTLS")
        found.append("serverNames")
    if place.has("listener"):
        _listener(place.at("listener"), ingress, bool(rules.value))
        found.append("listener")
    return found


def _rules(rules: Place, ports: list[tuple[str, str]], ingress: bool) -> list[str]:
    kinds = [key for key in ("http", "dns", "kafka", "l7") if rules.has(key)]
    if len(kinds) > 1:
        rules.fail("multiple L7 protocol rule types specified in single rule", ", ".join(kinds))
    if rules.has("l7") and not rules.has("l7proto"):
        rules.at("l7").fail("'l7' may only be specified when a 'l7proto' is also specified")
    if rules.has("l7proto") and kinds not in ([], ["l7"]):
        rules.at("l7proto").fail("multiple L7 protocol rule types specified in single rule")
    if not kinds and not rules.has("l7proto"):
        return []
    kind = kinds[0] if kinds else "l7proto"
    for protocol, port in ports:
        _check_port(rules, kind, protocol, port)
    if kind == "dns":
        if ingress:
            rules.at("dns").fail("DNS rules are not allowed on ingress")
        for item in rules.at("dns").items():
            check_name(item)
    if kind == "http":
        for item in rules.at("http").items():
            _http(item)
    if kind == "kafka":
        list(rules.at("kafka").items())
    return [f"rules.{kind}"]


def _check_port(rules: Place, kind: str, protocol: str, port: str) -> None:
    if kind == "dns":
        if protocol == "SCTP":
            rules.fail("DNS rules can only apply to TCP, UDP or ANY", protocol)
        if port == "0":
            rules.fail("port 53 must be specified for DNS rules")
    elif protocol != "TCP":
        rules.fail(f"L7 rules can only apply to TCP (not {protocol or 'ANY'}) except for DNS rules")
    elif port == "0":
        rules.fail("L7 rules can not be used when a port is 0")


def _http(item: Place) -> None:
    item.mapping(("path", "method", "host", "headers", "headerMatches"))
    for key in ("path", "method", "host"):
        if item.has(key):
            try:
                re.compile(item.at(key).text())
            except re.error as error:
                item.at(key).fail("invalid regular expression", str(error))
    for header in item.at("headers").items():
        if not header.text():
            header.fail("an empty header is not allowed")
    for match in item.at("headerMatches").items():
        match.mapping(_HEADER)
        if not match.at("name").text():
            match.at("name").fail("a header needs a name")
        if match.has("mismatch") and match.at("mismatch").text() not in _MISMATCH:
            match.at("mismatch").fail("unknown action", ", ".join(_MISMATCH))


def _tls(place: Place) -> None:
    place.mapping(("secret", "trustedCA", "certificate", "privateKey"))
    secret = place.at("secret")
    if secret.value is None:
        secret.fail("a TLS block needs a secret")
    secret.mapping(("namespace", "name"))
    if not secret.at("name").value:
        secret.at("name").fail("a secret needs a name")


def _listener(place: Place, ingress: bool, with_rules: bool) -> None:
    place.mapping(("envoyConfig", "name", "priority"))
    if ingress:
        place.fail("listener is not allowed on ingress")
    if with_rules:
        place.fail("listener is not allowed together with L7 rules")
    if not isinstance(place.at("envoyConfig").value, dict) or not place.at("name").value:
        place.fail("a listener needs envoyConfig and name")
    priority = place.at("priority").value
    if priority is not None and (not isinstance(priority, int) or not 1 <= priority <= 100):
        place.at("priority").fail("expected a number in 1..100")


def check_name(place: Place) -> None:
    """A toFQDNs or DNS rule: one of matchName and matchPattern."""
    place.mapping(("matchName", "matchPattern"))
    both = [key for key in ("matchName", "matchPattern") if place.has(key)]
    if len(both) > 1:
        place.fail("only one of MatchName or MatchPattern is allowed")
    if not both:
        place.fail("one of matchName or matchPattern is required")
    text = place.at(both[0]).text()
    if len(text) > _LONGEST:
        place.at(both[0]).fail(f"a name has at most {_LONGEST} characters")
    if not (_FQDN if both[0] == "matchName" else _PATTERN).match(text):
        place.at(both[0]).fail(f"invalid characters in {text!r}", "letters, digits, '-', '_', '.'")
