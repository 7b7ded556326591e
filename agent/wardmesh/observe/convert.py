# SPDX-License-Identifier: Apache-2.0
"""Flow to flow.Flow and back, and what field masks leave of a message."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from wardmesh import __version__
from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address
from wardmesh.observe.flow import (
    ICMP,
    ICMP6,
    SCTP,
    TCP,
    UDP,
    UNSPECIFIED,
    Direction,
    Flow,
    FlowEvent,
    Kind,
    Lost,
    Party,
    Policy,
    TcpFlag,
    Traffic,
    Verdict,
    tcp_flag_names,
)
from wardmesh.observe.proto import message, repeated

L3_L4 = 1
_ICMP_NAMES = {
    (ICMP, 0): "EchoReply",
    (ICMP, 3): "DestinationUnreachable",
    (ICMP, 5): "Redirect",
    (ICMP, 8): "EchoRequest",
    (ICMP, 11): "TimeExceeded",
    (ICMP, 12): "ParameterProblem",
    (ICMP6, 1): "DestinationUnreachable",
    (ICMP6, 2): "PacketTooBig",
    (ICMP6, 3): "TimeExceeded",
    (ICMP6, 4): "ParameterProblem",
    (ICMP6, 128): "EchoRequest",
    (ICMP6, 129): "EchoReply",
    (ICMP6, 133): "RouterSolicitation",
    (ICMP6, 134): "RouterAdvertisement",
    (ICMP6, 135): "NeighborSolicitation",
    (ICMP6, 136): "NeighborAdvertisement",
}
_PORT_PROTOCOLS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
_ICMP_PROTOCOLS = {ICMP: "ICMPv4", ICMP6: "ICMPv6"}
# Protocols that have a message of their own in Layer4 and no ports.
_FLAG_BITS = tuple((str(flag.name), flag.value) for flag in TcpFlag)
_OTHERS = {112: "VRRP", 2: "IGMP"}


def summary(event: FlowEvent) -> str:
    """The words in brackets at the end of a line: flags or type, then what a finished connection carried."""
    if event.protocol == TCP:
        first = f"TCP Flags: {tcp_flag_names(event.tcp_flags)}" if event.tcp_flags else "TCP"
    elif event.protocol in _ICMP_PROTOCOLS:
        known = _ICMP_NAMES.get((event.protocol, event.icmp_type))
        word = known or f"type {event.icmp_type} code {event.icmp_code}"
        first = f"{_ICMP_PROTOCOLS[event.protocol]} {word}"
    else:
        first = _PORT_PROTOCOLS.get(event.protocol) or _OTHERS.get(
            event.protocol, f"protocol {event.protocol}"
        )
    return f"{first}; {_carried(event.traffic)}" if event.traffic else first


def _carried(traffic: Traffic) -> str:
    parts = [
        f"{traffic.packets} packets {traffic.bytes} bytes",
        f"back {traffic.packets_back} packets {traffic.bytes_back} bytes",
        f"{traffic.duration_ns / 1e9:.3f} s",
    ]
    if traffic.rtt_ns is not None:
        parts.append(f"rtt {traffic.rtt_ns / 1e6:.3f} ms")
    return ", ".join(parts)


# --- Flow to message ---


def flow_message(flow: Flow, into: Any = None) -> Any:
    """The flow.Flow of a flow; into: an empty one to write it into."""
    event = flow.event
    made = message("flow.Flow")() if into is None else into
    set_time(made.time, event.time_ns)
    made.uuid = flow.uuid
    made.emitter.name = "wardmesh"
    made.emitter.version = __version__
    made.verdict = event.verdict
    made.IP.source = str(event.source)
    made.IP.destination = str(event.destination)
    made.IP.ipVersion = 1 if event.source.version == 4 else 2
    made.IP.encrypted = event.encrypted
    _write_l4(made.l4, event)
    made.source.CopyFrom(_endpoint(flow.source))
    made.destination.CopyFrom(_endpoint(flow.destination))
    if flow.source.domain_names:
        made.source_names.extend(flow.source.domain_names)
    if flow.destination.domain_names:
        made.destination_names.extend(flow.destination.domain_names)
    made.Type = L3_L4
    made.node_name = flow.node_name
    made.node_labels.extend(flow.node_labels)
    made.event_type.type = event.kind
    made.event_type.sub_type = event.sub_type
    made.traffic_direction = event.direction
    made.trace_observation_point = event.observation_point
    made.trace_reason = event.trace_reason
    made.policy_match_type = event.policy_match_type
    made.Summary = summary(event)
    _write_rest(made, event)
    return made


def _write_rest(made: Any, event: FlowEvent) -> None:
    if event.drop_reason:
        made.drop_reason = event.drop_reason  # deprecated upstream, and still what older clients read
        made.drop_reason_desc = event.drop_reason
    if event.is_reply is not None:
        made.is_reply.value = event.is_reply
        made.reply = event.is_reply
    if event.interface or event.interface_index:
        made.interface.index = event.interface_index
        made.interface.name = event.interface
    side = "ingress" if event.direction is Direction.INGRESS else "egress"
    for policies, word in ((event.allowed_by, "allowed"), (event.denied_by, "denied")):
        for policy in policies:
            getattr(made, f"{side}_{word}_by").add(
                name=policy.name,
                namespace=policy.namespace,
                kind=policy.kind,
                revision=policy.revision,
                labels=policy.labels,
            )
    if event.traffic is not None:
        fields = event.traffic._asdict()
        fields["rtt_ns"] = fields["rtt_ns"] or 0
        for name, value in fields.items():
            setattr(made.traffic, name, value)


def _write_l4(layer: Any, event: FlowEvent) -> None:
    name = _PORT_PROTOCOLS.get(event.protocol)
    if name is not None:
        part = getattr(layer, name)
        part.source_port = event.source_port
        part.destination_port = event.destination_port
        part.SetInParent()
        if event.protocol == TCP and event.tcp_flags:
            flags = part.flags
            for name, bit in _FLAG_BITS:
                if event.tcp_flags & bit:
                    setattr(flags, name, True)
    elif event.protocol in _ICMP_PROTOCOLS:
        part = getattr(layer, _ICMP_PROTOCOLS[event.protocol])
        part.type = event.icmp_type
        part.code = event.icmp_code
        part.SetInParent()
    elif event.protocol in _OTHERS:
        getattr(layer, _OTHERS[event.protocol]).SetInParent()


# Few parties make most flows: their messages are kept, by the object that Names hands out again and again.
_ENDPOINTS: dict[int, tuple[Party, Any]] = {}
_MOST_ENDPOINTS = 8192


def _endpoint(party: Party) -> Any:
    """The flow.Endpoint of a party; not to be changed by who gets it."""
    known = _ENDPOINTS.get(id(party))
    if known is not None and known[0] is party:
        return known[1]
    part = message("flow.Endpoint")(
        identity=party.identity,
        cluster_name=party.cluster,
        labels=party.labels,
        pod_name=party.name,
    )
    if len(_ENDPOINTS) >= _MOST_ENDPOINTS:
        _ENDPOINTS.clear()
    _ENDPOINTS[id(party)] = (party, part)
    return part


def set_time(stamp: Any, time_ns: int) -> None:
    """A Timestamp to unix nanoseconds."""
    stamp.seconds, stamp.nanos = divmod(time_ns, 10**9)


def time_of(stamp: Any) -> int:
    """Unix nanoseconds of a Timestamp."""
    return int(stamp.seconds) * 10**9 + int(stamp.nanos)


def lost_message(lost: Lost) -> Any:
    """The flow.LostEvent of a gap."""
    made = message("flow.LostEvent")()
    made.source = lost.source.value
    made.num_events_lost = lost.number
    if lost.first_ns:
        set_time(made.first, lost.first_ns)
        set_time(made.last, lost.last_ns)
    return made


# --- message to Flow ---


def flow_of(made: Any) -> Flow:
    """The Flow of a flow.Flow that somebody sent; WardmeshError where it has no readable addresses."""
    source, destination = _address(made.IP.source), _address(made.IP.destination)
    side = "ingress" if made.traffic_direction == Direction.INGRESS.value else "egress"
    protocol, ports = _read_l4(made.l4)
    sent = made.traffic if made.HasField("traffic") else None
    event = FlowEvent(
        time_ns=time_of(made.time),
        node=made.node_name.rpartition("/")[2],
        kind=_kind(made),
        verdict=_member(Verdict, made.verdict, Verdict.UNKNOWN),
        direction=_member(Direction, made.traffic_direction, Direction.UNKNOWN),
        protocol=protocol,
        source=source,
        destination=destination,
        source_port=ports[0],
        destination_port=ports[1],
        source_identity=made.source.identity,
        destination_identity=made.destination.identity,
        is_reply=made.is_reply.value if made.HasField("is_reply") else None,
        tcp_flags=sum(f.value for f in TcpFlag if getattr(made.l4.TCP.flags, str(f.name))),
        icmp_type=made.l4.ICMPv4.type or made.l4.ICMPv6.type,
        icmp_code=made.l4.ICMPv4.code or made.l4.ICMPv6.code,
        drop_reason=made.drop_reason_desc or made.drop_reason,
        policy_match_type=made.policy_match_type,
        allowed_by=_policies(getattr(made, f"{side}_allowed_by")),
        denied_by=_policies(getattr(made, f"{side}_denied_by")),
        interface_index=made.interface.index,
        interface=made.interface.name,
        encrypted=made.IP.encrypted,
        observation_point=made.trace_observation_point,
        trace_reason=made.trace_reason,
        traffic=_traffic(sent) if sent is not None else None,
    )
    parties = [
        Party(end.identity, end.pod_name, end.cluster_name, tuple(end.labels), tuple(names))
        for end, names in (
            (made.source, made.source_names),
            (made.destination, made.destination_names),
        )
    ]
    return Flow(event, parties[0], parties[1], made.uuid, made.node_name, tuple(made.node_labels))


def _kind(made: Any) -> Kind:
    return Kind(_member(Kind, made.event_type.type, Kind.TRACE))


def _member(kind: Any, value: int, otherwise: Any) -> Any:
    """A number of an enum; what a newer server sends and we do not know becomes something known."""
    return kind(value) if value in kind._value2member_map_ else otherwise


def _address(text: str) -> Address:
    if not text:
        return UNSPECIFIED
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise WardmeshError("a flow has no readable address", why=str(error)) from error


def _read_l4(layer: Any) -> tuple[int, tuple[int, int]]:
    for number, name in _PORT_PROTOCOLS.items():
        if layer.HasField(name):
            part = getattr(layer, name)
            return number, (part.source_port, part.destination_port)
    for number, name in (*_ICMP_PROTOCOLS.items(), *_OTHERS.items()):
        if layer.HasField(name):
            return number, (0, 0)
    return 0, (0, 0)


def _policies(sent: Sequence[Any]) -> tuple[Policy, ...]:
    return tuple(Policy(p.name, p.namespace, p.kind, p.revision, tuple(p.labels)) for p in sent)


def _traffic(sent: Any) -> Traffic:
    return Traffic(
        sent.packets,
        sent.packets_back,
        sent.bytes,
        sent.bytes_back,
        sent.duration_ns,
        sent.rtt_ns or None,
        sent.closed,
    )


# --- field masks ---


class FieldMask:
    """Paths of flow.Flow that a client wants. None of them: everything."""

    def __init__(self, mask: Any) -> None:
        """A google.protobuf.FieldMask; WardmeshError names the paths that flow.Flow does not have."""
        paths = list(mask.paths)
        wrong = [path for path in paths if not _exists(path)]
        if wrong:
            raise WardmeshError(
                "no such field of a flow",
                where=f"field_mask: {', '.join(wrong[:5])}",
                remedy="correct the path",
            )
        self._mask = message("google.protobuf.FieldMask")(paths=paths) if paths else None

    def apply(self, made: Any) -> Any:
        """What the mask leaves of a flow.Flow."""
        if self._mask is None:
            return made
        left = message("flow.Flow")()
        self._mask.MergeMessage(made, left)
        return left


def _exists(path: str) -> bool:
    descriptor = message("flow.Flow").DESCRIPTOR
    for place, name in enumerate(path.split(".")):
        if descriptor is None or name not in descriptor.fields_by_name:
            return False
        field = descriptor.fields_by_name[name]
        if repeated(field) and place < path.count("."):
            return False  # the parts of a list cannot be masked
        descriptor = field.message_type
    return True
