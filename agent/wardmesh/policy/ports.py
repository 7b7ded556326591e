# SPDX-License-Identifier: Apache-2.0
"""toPorts and icmps: what of layer 4 an item speaks about."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wardmesh.model.fleetmap import PORT_NAME
from wardmesh.policy.l7 import check_l7
from wardmesh.policy.reading import Place

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
PROTOCOLS = {"TCP": (TCP,), "UDP": (UDP,), "SCTP": (SCTP,), "ANY": (TCP, UDP, SCTP), "": (TCP, UDP, SCTP)}
# Upstream has these behind --enable-extended-ip-protocols; they have no ports.
EXTENDED = ("VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH")
LAST_PORT = 65535
MOST_ENTRIES = 40
_NUMBER = re.compile(r"^(0[xX][0-9a-fA-F]+|0[oO]?[0-7]*|0[bB][01]+|[1-9][0-9]*)$")

# Names of upstream's pkg/policy/api/icmp.go; the numbers are IANA's.
ICMP_TYPES = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "RouterAdvertisement": 9,
    "RouterSelection": 10,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}
ICMP6_TYPES = {
    "DestinationUnreachable": 1,
    "PacketTooBig": 2,
    "TimeExceeded": 3,
    "ParameterProblem": 4,
    "EchoRequest": 128,
    "EchoReply": 129,
    "MulticastListenerQuery": 130,
    "MulticastListenerReport": 131,
    "MulticastListenerDone": 132,
    "RouterSolicitation": 133,
    "RouterAdvertisement": 134,
    "NeighborSolicitation": 135,
    "NeighborAdvertisement": 136,
    "RedirectMessage": 137,
    "RouterRenumbering": 138,
    "ICMPNodeInformationQuery": 139,
    "ICMPNodeInformationResponse": 140,
    "InverseNeighborDiscoverySolicitation": 141,
    "InverseNeighborDiscoveryAdvertisement": 142,
    "HomeAgentAddressDiscoveryRequest": 144,
    "HomeAgentAddressDiscoveryReply": 145,
    "MobilePrefixSolicitation": 146,
    "MobilePrefixAdvertisement": 147,
    "DuplicateAddressRequestCodeSuffix": 157,
    "DuplicateAddressConfirmationCodeSuffix": 158,
    "ExtendedEchoRequest": 160,
    "ExtendedEchoReply": 161,
}


@dataclass(frozen=True)
class PortRange:
    """Ports first to last of one protocol; for ICMP, types. 0 to 65535 is all of them."""

    protocol: int
    first: int
    last: int


@dataclass(frozen=True)
class NamedPort:
    """A port by its name, of the member that listens on it."""

    protocol: int
    name: str


@dataclass(frozen=True)
class Layer4:
    """ranges and names: None where the item speaks about everything; later: features that come later."""

    ranges: tuple[PortRange, ...] | None
    names: tuple[NamedPort, ...]
    later: tuple[str, ...]


def parse_layer4(item: Place, ingress: bool, deny: bool) -> Layer4:
    """toPorts and icmps of a rule's item."""
    ranges: list[PortRange] = []
    names: list[NamedPort] = []
    later: list[str] = []
    some_ports = list(item.at("toPorts").items())
    some_types = list(item.at("icmps").items())
    if some_ports and some_types:
        item.at("icmps").fail("the icmps block may only be present without toPorts", remedy="use two items")
    for place in some_ports:
        later += _port_rule(place, ingress, deny, ranges, names)
    for place in some_types:
        ranges += _icmp_rule(place)
    everything = not some_ports and not some_types
    return Layer4(None if everything else tuple(ranges), tuple(names), tuple(later))


def _port_rule(
    place: Place, ingress: bool, deny: bool, ranges: list[PortRange], names: list[NamedPort]
) -> list[str]:
    fields = ("ports", "rules", "terminatingTLS", "originatingTLS", "serverNames", "listener")
    place.mapping(("ports",) if deny else fields)
    ports = list(place.at("ports").items())
    if len(ports) > MOST_ENTRIES:
        place.at("ports").fail(f"too many ports, the max is {MOST_ENTRIES}")
    found: list[tuple[str, str]] = []
    for port in ports:
        for entry in _port(port):
            if isinstance(entry, PortRange):
                ranges.append(entry)
            else:
                names.append(entry)
        found.append((str(port.value.get("protocol") or "").upper(), str(port.value.get("port", ""))))
    return [] if deny else check_l7(place, found, ingress)


def _port(place: Place) -> list[PortRange | NamedPort]:
    place.mapping(("port", "endPort", "protocol"))
    word = place.at("protocol").value
    protocol = "" if word is None else place.at("protocol").text().upper()
    if protocol in EXTENDED:
        place.at("protocol").fail(
            f"the protocol {protocol} is not supported in this version", remedy="take the rule out"
        )
    if protocol not in PROTOCOLS:
        place.at("protocol").fail(
            f"invalid protocol {word!r}, must be {{ tcp | udp | sctp | any }}", remedy="correct the protocol"
        )
    text = _port_text(place.at("port"))
    end = _end_port(place)
    if _NUMBER.match(text):
        first = int(text, 8) if re.match(r"^0[0-7]+$", text) else int(text, 0)
        if first > LAST_PORT:
            place.at("port").fail(f"unable to parse port: {text} is not in 0..{LAST_PORT}")
        if end and end < first:
            place.at("endPort").fail(f"the range ends at {end}, before it begins at {first}")
        last = LAST_PORT if first == 0 and not end else end or first
        return [PortRange(number, first, last) for number in PROTOCOLS[protocol]]
    if not PORT_NAME.match(text.lower()):
        place.at("port").fail(
            f"unable to parse port: {text!r} is neither a number in 0..{LAST_PORT} nor a port name",
            "names have at most 15 letters, digits and hyphens",
        )
    if end:
        place.at("endPort").fail("a named port has no endPort", remedy="write the range with numbers")
    return [NamedPort(number, text.lower()) for number in PROTOCOLS[protocol]]


def _port_text(place: Place) -> str:
    value = place.value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # upstream wants a string; the number means the same
    if value is None or value == "":
        place.fail("port must be specified")
    if not isinstance(value, str):
        place.fail("expected a port number or name")
    return str(value)


def _end_port(place: Place) -> int:
    end = place.at("endPort").value
    if end is None:
        return 0
    if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end <= LAST_PORT:
        place.at("endPort").fail(f"expected a number in 0..{LAST_PORT}")
    return int(end)


def _icmp_rule(place: Place) -> list[PortRange]:
    place.mapping(("fields",))
    fields = list(place.at("fields").items())
    if len(fields) > MOST_ENTRIES:
        place.at("fields").fail(f"too many types, the max is {MOST_ENTRIES}")
    return [_icmp_field(item) for item in fields]


def _icmp_field(place: Place) -> PortRange:
    place.mapping(("type", "family"))
    family = place.at("family").value
    family = "IPv4" if family in (None, "") else place.at("family").text()
    if family not in ("IPv4", "IPv6"):
        place.at("family").fail(f"wrong family: {family}", "IPv4 or IPv6")
    names = ICMP_TYPES if family == "IPv4" else ICMP6_TYPES
    kind = place.at("type").value
    if isinstance(kind, str):
        number = names.get(kind)
        if number is None and kind.isascii() and kind.isdigit():
            number = int(kind)
        if number is None:
            place.at("type").fail(f"ICMP type {kind} not found in {family}", f"known: {', '.join(names)}")
    elif isinstance(kind, int) and not isinstance(kind, bool):
        number = kind
    else:
        place.at("type").fail("expected a type number or name")
    if not 0 <= number <= 255:
        place.at("type").fail(f"ICMP type {number} is not in 0..255")
    return PortRange(ICMP if family == "IPv4" else ICMP6, number, number)
